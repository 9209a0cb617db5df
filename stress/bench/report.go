package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// report is what is written as JSON.
type report struct {
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Rows    []*result `json:"rows"`
	// Across holds what compares rows.
	Across []verdict `json:"across,omitempty"`
}

type machine struct {
	Kernel     string    `json:"kernel"`
	Processors int       `json:"processors"`
	Go         string    `json:"go"`
	FileSystem string    `json:"fileSystem"`
	Load       string    `json:"load"` // before the first row
	Date       time.Time `json:"date"`
}

func thisMachine(dir string) machine {
	m := machine{Processors: runtime.GOMAXPROCS(0), Go: runtime.Version(), Date: time.Now().UTC().Truncate(time.Second)}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		m.FileSystem = map[int64]string{
			unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		}[int64(st.Type)]
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.TrimSpace(string(load))
	}
	return m
}

// across compares what an operation costs beside the floor in a small database and
// in a large one.
func (r *report) across() {
	overFloor := func(name string) []float64 {
		i := slices.IndexFunc(r.Rows, func(row *result) bool { return row.Row == name })
		if i < 0 {
			return nil
		}
		of, than := r.Rows[i].find("graphsnap"), r.Rows[i].find("floor")
		if of == nil || than == nil {
			return nil
		}
		return ratios(of, than)
	}
	small, large := overFloor("pair-64"), overFloor("pair-64-1M")
	n := min(len(small), len(large))
	if n == 0 {
		return
	}
	change := make([]float64, n)
	for i := range change {
		change[i] = large[i] / small[i]
	}
	v := verdict{What: "graphsnap / floor with 1,000,000 keys, beside that with 1,000", Ratio: summarize(change)}
	r.Across = append(r.Across, v.against(target{most: 1.2}))
}

func (r *report) print(w io.Writer) {
	for _, v := range r.Across {
		fmt.Fprintf(w, "\nacross rows: %s\n", v)
	}
	var missed []string
	reached := 0
	for _, row := range r.Rows {
		for _, v := range row.Verdicts {
			if v.Reached {
				reached++
			} else {
				missed = append(missed, fmt.Sprintf("%s: %s", row.Row, v))
			}
		}
	}
	fmt.Fprintf(w, "\n%d targets reached, %d missed\n", reached, len(missed))
	for _, m := range missed {
		fmt.Fprintln(w, " ", m)
	}
}

func (r *result) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n", r.Row, r.What)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range r.Series {
		fmt.Fprintf(t, "  %s\t%s\t%s to %s", s.Name, show(s.Summary.Median, r.Unit), show(s.Summary.Low, r.Unit), show(s.Summary.High, r.Unit))
		for _, k := range slices.Sorted(maps.Keys(s.Extra)) {
			fmt.Fprintf(t, "\t%s %s", show(s.Extra[k], ""), k)
		}
		fmt.Fprintln(t)
	}
	for _, v := range r.Verdicts {
		fmt.Fprintf(t, "  %s\n", v)
	}
	_ = t.Flush()
}

func (v verdict) String() string {
	mark := "reached"
	if !v.Reached {
		mark = "MISSED"
	}
	return fmt.Sprintf("%s = %s (%s to %s), %s: %s", v.What, show(v.Ratio.Median, v.Unit), show(v.Ratio.Low, v.Unit), show(v.Ratio.High, v.Unit), v.Target, mark)
}

// show writes a figure with three digits and the unit that suits it.
func show(v float64, unit string) string {
	if unit == "ns" {
		for _, u := range []struct {
			size float64
			name string
		}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
			if v >= u.size {
				return digits(v/u.size) + " " + u.name
			}
		}
	}
	if unit == "" {
		return digits(v)
	}
	return digits(v) + " " + unit
}

func digits(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
