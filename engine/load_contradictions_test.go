package engine

import (
	"testing"

	"github.com/graphsnap/graphsnap/persist"
)

// Records that contradict each other cost no sound snapshot, and go when no lease
// names them, circle or not.
func TestACircleOfParentsGoesWithItsLeases(t *testing.T) {
	for _, copies := range []bool{false, true} {
		r := newRuins(t, copies)
		a, b, c := r.record(persist.Committed, "a", "c"), r.record(persist.Committed, "b", "a"), r.record(persist.Committed, "c", "b")
		b.Created = 0 // as if dockerd had made it
		on, self := r.record(persist.Active, "on", "a"), r.record(persist.Active, "self", "self")
		self.Creating = true
		r.left(persist.Put(a), persist.Put(b), persist.Put(c), persist.Put(on), persist.Put(self),
			persist.Put(r.record(persist.Committed, "sound", "")), persist.Put(r.record(persist.Active, "top", "sound")))
		for key, parent := range map[string]string{"a": "c", "b": "a", "c": "b", "on": "a", "self": "self", "sound": "", "top": "sound"} {
			r.put(key, parent, "whole")
		}
		l, kept := Lease{Namespace: "ns", ID: "l"}, Lease{Namespace: "ns", ID: "kept"}
		for _, key := range []string{"a", "b", "c", "on", "self"} {
			r.leases.add(l, key)
		}
		r.leases.add(kept, "top")
		r.opts = append(r.opts, WithGrace(0))
		r.reopen()
		for key, absent := range map[string]bool{"a": true, "b": true, "c": true, "on": true, "self": true, "sound": false, "top": false} {
			if r.absent(key) != absent {
				t.Errorf("copies %v: %q is absent: %v", copies, key, !absent)
			}
		}
		r.endLease(l)
		eventually(t, "what is lost goes", func() bool {
			r.driver.mu.Lock()
			defer r.driver.mu.Unlock()
			return len(r.driver.dirs) == 2
		})
		r.settled()
		must(t, r.Close())
		if records, removals := r.records(); len(records) != 2 || len(removals) > 0 {
			t.Errorf("copies %v: recorded are %v and removals of %q", copies, records, removals)
		}
	}
}

// Of two records that bear one graph ID the one keeps the directory that made it; the
// other one's removal takes nothing along.
func TestADirectoryOfTwoRecordsIsThatOfOne(t *testing.T) {
	for name, c := range map[string]struct {
		keeps, loses func(r *ruins) persist.Record
	}{
		"a name and a key": {
			func(r *ruins) persist.Record { return r.record(persist.Committed, "keeps", "base") },
			func(r *ruins) persist.Record { return r.record(persist.Active, "loses", "base") },
		},
		"a name and the key that it was committed from": {
			func(r *ruins) persist.Record {
				rec := r.record(persist.Committed, "keeps", "base")
				rec.GraphID = "loses"
				return rec
			},
			func(r *ruins) persist.Record {
				rec := r.record(persist.Active, "loses", "base")
				rec.GraphID = "loses"
				return rec
			},
		},
		"a key and one that is its graph ID": {
			func(r *ruins) persist.Record {
				rec := r.record(persist.Active, "keeps", "base")
				rec.GraphID = "keeps"
				return rec
			},
			func(r *ruins) persist.Record { return r.record(persist.View, "loses", "") },
		},
		"one that is unfinished": {
			func(r *ruins) persist.Record { return r.record(persist.Active, "keeps", "base") },
			func(r *ruins) persist.Record {
				rec := r.record(persist.Active, "loses", "base")
				rec.Creating = true
				return rec
			},
		},
	} {
		for _, copies := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := newRuins(t, copies)
				base := r.record(persist.Committed, "base", "")
				keeps, loses := c.keeps(r), c.loses(r)
				loses.GraphID = keeps.GraphID
				r.left(persist.Put(base), persist.Put(keeps), persist.Put(loses), persist.Put(r.record(persist.Active, "on", "loses")))
				r.put("base", "", "whole")
				r.put("on", "base", "whole")
				r.driver.dirs[keeps.GraphID], r.driver.links[keeps.GraphID] = "of-base", true
				r.leases.add(Lease{Namespace: "ns", ID: "kept"}, "keeps")
				r.opts = append(r.opts, WithGrace(0))
				r.reopen()
				if r.absent("keeps") || r.absent("base") || !r.absent("loses") {
					t.Errorf("absent: keeps %v, base %v, loses %v", r.absent("keeps"), r.absent("base"), r.absent("loses"))
				}
				eventually(t, "what stood on the other one goes", func() bool { return r.keys.Load("on") == nil })
				r.settled()
				if rec, ok := r.crashed()["loses"]; ok {
					t.Errorf("recorded is still %+v", rec)
				}
				must(t, r.Prepare(t.Context(), "loses", "base"))
				if b := r.keys.Load("loses").visible(); b.graphID == keeps.GraphID {
					t.Error("the directory is shared again")
				}
				must(t, r.Close())
				r.reopen()
				if r.absent("keeps") {
					t.Error("the next start loses it")
				}
				must(t, r.Close())
				if _, ok := r.driver.dirs[keeps.GraphID]; !ok {
					t.Error("the directory is gone")
				}
				records, _ := r.records()
				if got := records["keeps"]; got.GraphID != keeps.GraphID || got.Parent != keeps.Parent || got.Kind != keeps.Kind {
					t.Errorf("recorded is %+v, want %+v", got, keeps)
				}
			})
		}
	}
}
