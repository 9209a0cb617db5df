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
package main
