package trace

// order is what the recording says about the order of the calls.
type order struct {
	after [][]int // calls that have to end before each begins
	alone []bool  // no call with a key in common was under way beside it
}

// ordered derives it from the times and the keys of the events, which are sorted.
func ordered(events []Event) order {
	o := order{after: make([][]int, len(events)), alone: make([]bool, len(events))}
	parents := map[string]string{}
	users := map[string][]int{} // calls by key
	for i := range events {
		o.alone[i] = true
		e := &events[i]
		keys := []string{e.Key}
		if e.On != "" {
			keys = append(keys, e.On)
		}
		if e.Failed == "" {
			switch e.Call {
			case "prepare", "view":
				parents[e.Key] = e.On
			case "commit":
				parents[e.On] = parents[e.Key]
			}
		}
		if p := parents[e.Key]; e.Call == "remove" && p != "" {
			keys = append(keys, p) // which may go afterwards
		}
		for _, key := range keys {
			for _, j := range users[key] {
				if events[j].end() <= e.At {
					o.after[i] = append(o.after[i], j)
				} else {
					o.alone[i], o.alone[j] = false, false
				}
			}
			users[key] = append(users[key], i)
		}
	}
	return o
}
