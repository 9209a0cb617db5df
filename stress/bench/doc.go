// Command bench measures graphsnap beside the snapshotters that people use today,
// in one run:
//
//	go run ./stress/bench [-rows REGEXP] [-rounds N] [-json FILE] [-dir DIR] [-smoke]
//
// A row is a question, such as how long a durable Prepare and Commit take with 64
// clients. Its contenders take turns, round by round, and another one begins each
// round, so that what else the machine does hits them alike. Figures are medians
// over the rounds with the quartiles beside them; a ratio is taken within each
// round before its median is.
//
// Everybody syncs: nothing is measured with fsync off, but for the rows that say
// so, whose files lie in memory. Where it says fsyncs they are counted from the
// number of the last transaction in the database's own header, of which bbolt
// makes two each (a third where the file grows is left out), so they are counted in
// the same way of all, and written bytes are write_bytes of /proc/self/io, which
// the kernel counts where pages become dirty. Only one contender works at a time.
//
// What is pre-filled is made once, in dockerd's format or in containerd's, and
// copied.
//
// Needs root and a file system that overlay2 works on.
//
// # What bounds the rows that are missed
//
// Measured on two processors and a disk that syncs in 70 microseconds, where a pair of
// moby's takes 0.30 ms.
//
// pair-1 is at 1.08 to 1.19 of moby: four syncs take 250 microseconds of either's 300.
// With the files in memory a pair takes 65 microseconds, moby's 40. In a profile the
// engine has 4 percent of that, the rest is bbolt's, which keeps a bucket of our own too,
// and the collector's. To write in the goroutine of a lone caller, without a change of
// goroutines, made it 1.08 to 1.16.
//
// pair-64 and pair-256 are at 6 and 10 times moby, because there it is the processors that
// bound them and no longer the disk: with the files in memory a pair takes 33 and 29
// microseconds, on the disk 50 and 30. The bare loop, which applies the same to bbolt and
// does nothing else, takes 23 and 19 in memory. With 256 clients both processors are
// busy for 87 percent of the time; of that the writer has 43 percent, 28 of them to
// apply the changes to bbolt's tree and 13 to commit, the callers 35, and the collector
// most of the rest. 12 and 25 times moby would be 25 and 12 microseconds. A log before
// the database would get there, but dockerd ends without closing its builder, and a
// stock dockerd that takes over would not know of the log.
//
// beside-scans is at 2 to 3 for Prepare, with equal medians. In a trace the slowest fiftieth
// of the Prepares beside the scans take 3.4 ms longer than those without: 1.4 of them within
// fsync, 0.9 waiting for the database's commit, and 1.5 runnable without a processor. Two
// processes that do nothing but use the processors, and no scan, make the same of the
// quiet Prepares (2.3 to 6.0 ms, at nice 19 to 5.4), one of them makes no difference: hashing
// a layer takes both processors, and the kernel's threads that write the journal wait for
// one as everybody does. To hash in the goroutine that reads changed nothing, nor did
// it to yield between reads, but where there is one processor: there it takes the median
// beside scans from 9 ms to 1.
//
// stat-one is at 44 to 86 ns, where in the same runs a bare sync.Map.Load of that key takes
// 22 to 46 and moby's Stat 3.2 to 6.5 microseconds: how long a processor of a shared
// machine takes for the same changes by the hour. In the engine alone it is 37 to 44. Of these a
// profile gives a quarter to the hash of the key, a third to the probe and the comparison of
// the key, a sixth to making the two times of an Info, and the rest to calls and to the copy
// of the Info, of 14 words, once more in the face. The table is already the faster one with
// random keys, at 0.9 of sync.Map. To keep the times as they are told would cost each
// snapshot 32 bytes.
//
// walk is at 7 to 12 times containerd. It waits for the memory of 100,000 snapshots and
// their labels, of which it fetches that of 32 at once; containerd decodes pages that it
// reads in order.
//
// The wide build (make bench-wide) is at 0.77 to 0.84 of buildkitd. Goroutines were sampled
// every millisecond. Of a link in its chain of 60 COPYs, which nothing is beside, 18 percent
// wait for the syncs of containerd's database of leases, 17 for those of BuildKit's records,
// 11 for unmounting, 9 for the three files that overlay2's Create syncs, and 3 for those of
// snapshots.db. The export waits for containerd's database of content, one transaction
// after the other. Without any sync in that database it would be 0.71. One transaction for
// several blobs is not safe: containerd's collector may take one that was renamed in a
// transaction which is not committed.
//
// The same in dockerd (make bench-dockerd) is at 0.89 to 1.04. With no sync of snapshots.db
// at all it is the same. The steps wait for the lock of BuildKit's cache, under which
// BuildKit syncs its records and ends leases, and for that of the daemon's database of
// leases, both of which are the daemon's own.
package main
