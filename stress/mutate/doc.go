// Command mutate plants small faults, one at a time, into the packages that promises
// rest on (actors, persist, mounts and engine), and looks whether tests notice.
//
//	go run ./stress/mutate -packages engine -run 'lease.go.*guard'
//
// The faults are those that this code would be hurt by, found in its syntax and types:
//
//	undo        a defer, or a call that lets go of something, does not happen
//	order       a write does not happen, or happens after what it is to precede: the
//	            publication of a state, the answer; or what makes a change known does
//	            not happen
//	generation  a comparison that tells a thing from what took its place passes whatever
//	            is compared
//	guard       the condition of an if, or of a case, is negated
//
// General tools of the kind (gremlins, go-mutesting) know the last and compile the
// tests once for each fault. Here all faults of a package are compiled in at once,
// with go test -overlay, so that nothing in the work tree changes, each behind a switch
// that the environment sets when the tests run. That takes one link of a package's tests
// and not several hundred; and the same binary tells which tests come by a fault at all,
// so that no others are run. Tests of the package itself come first, the fast ones before
// the slow; for what they let pass there are those of floors above (tested.go). The first
// that fails ends it. A test that hangs or panics has noticed.
//
// Files of the tests go to a memory file system where there is one. What a fault leads
// to is kept in .build/mutate, for as long as the file that has the fault and the file
// of the test that noticed are what they were; where nothing noticed, for as long as no
// test binary changed.
//
// survivors.txt names the faults that no test can or should notice, each with the
// reason. The command prints how many of each kind were caught, and ends with code 1
// where a package has fewer than 90 percent caught, or a fault survives that is not in
// that list.
//
// The package imports none of this module.
package main
