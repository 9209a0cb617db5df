package persist

// What records cannot say together, though each of them can be read: a bit that
// flipped in a name is not seen in the record that bears it.

import (
	"cmp"
	"iter"
)

// Circles returns the keys of which the parents lead back to themselves, one slice
// for each circle, each from some key to its parent and on. parent answers "" where
// there is none or where it has no record. It costs time and memory for each key and
// what is below it, once.
func Circles(keys iter.Seq[string], parent func(key string) string) (circles [][]string) {
	walk := map[string]int{} // the number of the walk that came by
	n := 0
	for key := range keys {
		n++
		var line []string
		for k := key; k != ""; k = parent(k) {
			if before, known := walk[k]; known {
				if before == n {
					for line[0] != k {
						line = line[1:]
					}
					circles = append(circles, line)
				}
				break
			}
			walk[k] = n
			line = append(line, k)
		}
	}
	return circles
}

// Outranks tells whether r, and not o, is the snapshot that made the directory where
// both bear its graph ID. A name is committed after all that was done under a key; a
// key that is its own graph ID has it from the beginning; what is older was there
// when the other one came, and no directory is made where one is.
func (r *Record) Outranks(o *Record) bool {
	of := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(of(r.Kind == Committed), of(o.Kind == Committed)),
		cmp.Compare(of(r.Key == r.GraphID), of(o.Key == o.GraphID)),
		cmp.Compare(r.Created, o.Created),
		cmp.Compare(r.Key, o.Key),
	) < 0
}
