package report

import (
	"encoding/json"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/stress/metrics"
)

// Report is what one invocation of the harness measured.
type Report struct {
	Command    string // that makes it again but for the seed
	Machine    Machine
	Contenders []*Contender // ratios are to the first
}

// Contender is what is compared with others.
type Contender struct {
	Name   string
	Rounds []*metrics.Result // of the same target with the same options
}

// Drop drops contenders without a round, of a contest that ended early.
func (r *Report) Drop() {
	r.Contenders = slices.DeleteFunc(r.Contenders, func(c *Contender) bool { return len(c.Rounds) == 0 })
}

// Typical returns the round whose throughput is the median, the lower one of two;
// nil where there was none.
func (c *Contender) Typical() *metrics.Result {
	return middle(c.Rounds, func(r *metrics.Result) float64 { v, _ := Throughput.Of(r); return v })
}

// Machine is where the measurement took place.
type Machine struct {
	Kernel     string
	Processors int // that Go uses
	Go         string
	FileSystem string // of the directory that was given, "" if it is none of the usual
	Load       string // before the measurement, as /proc/loadavg has it
	Date       time.Time
}

// ThisMachine describes the machine, with the file system of dir.
func ThisMachine(dir string) Machine {
	m := Machine{Processors: runtime.GOMAXPROCS(0), Go: runtime.Version(), Date: time.Now().Truncate(time.Second)}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		m.FileSystem = map[int64]string{
			unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
			unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
		}[int64(st.Type)]
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.TrimSpace(string(load))
	}
	return m
}

// WriteJSON writes all that is known, with every round and every sample. Durations
// are in nanoseconds.
func (r *Report) WriteJSON(w io.Writer) error {
	return json.NewEncoder(w).Encode(struct {
		*Report
		Comparison []Row    `json:",omitempty"`
		Effects    []Effect `json:",omitempty"`
	}{r, r.Compare(), r.Effects()})
}
