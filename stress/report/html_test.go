package report

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/metrics"
)

// told is a run with samples and an engine that tells.
func toldRound(options map[string]string) *metrics.Result {
	r := round(options, 1000, time.Millisecond)
	r.Target, r.Driver, r.Workload, r.Clients, r.Seed = "engine", "null", "mixed", 8, 7
	for i := range 20 {
		n := uint64(i + 1)
		r.Samples = append(r.Samples, metrics.Sample{
			At: time.Duration(n) * 50 * time.Millisecond, Operations: 50 * n, P99: time.Duration(n) * time.Millisecond,
			InFlight: 8, Goroutines: 30, Heap: n << 20, Memory: n << 21,
			Engine: &engine.Stats{
				Database: persist.Stats{Transactions: 5 * n, Messages: 40 * n, Committing: time.Duration(n) * 5 * time.Millisecond, Queued: 3},
				Keys:     4, KeysQueue: 2, MountsQueue: 1, Pending: engine.Pending{Directories: 2},
			},
		})
	}
	return r
}

func html(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// reaches is what would make a browser ask somebody else.
var reaches = regexp.MustCompile(`(?i)<(script|link|img|iframe|object|embed|image)\b|\b(src|href|action)\s*=|url\(|@import|@font-face`)

func sweepReport() *Report {
	r := &Report{Command: "go run ./stress -sweep batch=1,8"}
	for _, value := range []string{"1", "8"} {
		options := map[string]string{"batch": value}
		r.Contenders = append(r.Contenders, &Contender{Name: "batch=" + value, Rounds: []*metrics.Result{toldRound(options), toldRound(options)}})
	}
	return r
}

func TestThePageNeedsNothingElse(t *testing.T) {
	for name, page := range map[string]string{
		"one":   html(t, &Report{Contenders: []*Contender{{Name: "engine", Rounds: []*metrics.Result{toldRound(nil)}}}}),
		"sweep": html(t, sweepReport()),
	} {
		if found := reaches.FindString(page); found != "" {
			t.Errorf("%s: the page has %q", name, found)
		}
		for _, address := range regexp.MustCompile(`https?://[^"'<\s]*`).FindAllString(page, -1) {
			if !strings.HasPrefix(address, "http://www.w3.org/") { // names of namespaces
				t.Errorf("%s: the page names %s", name, address)
			}
		}
		if strings.Count(page, "<svg") != strings.Count(page, "</svg>") {
			t.Errorf("%s: a picture is cut off", name)
		}
	}
	if reaches.FindString(`<script>`) == "" || reaches.FindString(`<p style="background: url(x)">`) == "" {
		t.Error("the test finds nothing")
	}
}

func TestThePageHasAChartOfEverything(t *testing.T) {
	page := html(t, &Report{Contenders: []*Contender{{Name: "engine", Rounds: []*metrics.Result{toldRound(nil)}}}})
	for _, title := range []string{
		"Throughput", "99th percentile", "Latency percentiles: changes", "Batches of the persistence actor", "Time of a transaction",
		"Mailboxes", "Directories to delete", "Goroutines", "Memory",
	} {
		if !regexp.MustCompile(`(?s)<b>` + title + `[^<]*</b>.{0,900}?<svg viewBox="0 0 (252|512) 140"`).MatchString(page) {
			t.Errorf("no chart %q", title)
		}
	}
	page = html(t, sweepReport())
	for _, title := range []string{"Side by side", "Over time", "Latencies of each operation", "What batch buys"} {
		if !strings.Contains(page, "<h2>"+title+"</h2>") {
			t.Errorf("no section %q", title)
		}
	}
}

func TestAViolationStandsInThePageAsText(t *testing.T) {
	r := toldRound(nil)
	r.Verdict.Violations = []metrics.Violation{{Message: "<b>no</b> order", History: []string{"prepare a", "stat <a>"}, Group: "f1"}}
	page := html(t, &Report{Command: "stress -x", Contenders: []*Contender{{Name: "engine", Rounds: []*metrics.Result{r}}}})
	for _, want := range []string{"&lt;b&gt;no&lt;/b&gt; order", "prepare a\nstat &lt;a&gt;", "stress -x -seed 7", "1 violations"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
}

// TestARestartIsNoBatch has an engine whose counters begin anew.
func TestARestartIsNoBatch(t *testing.T) {
	r := &metrics.Result{}
	for i, transactions := range []uint64{10, 20, 4, 8} {
		r.Samples = append(r.Samples, metrics.Sample{
			At:     time.Duration(i+1) * time.Second,
			Engine: &engine.Stats{Database: persist.Stats{Transactions: transactions, Messages: 3 * transactions}},
		})
	}
	for _, p := range overTime(r, batch) {
		if p.Y != 3 {
			t.Errorf("%v messages in a transaction after %v s", p.Y, p.X)
		}
	}
}

func TestThinKeepsPeaksAndCounters(t *testing.T) {
	var samples []metrics.Sample
	for i := range 1000 {
		s := metrics.Sample{At: time.Duration(i) * time.Second, Operations: uint64(i), Engine: &engine.Stats{}}
		if i == 501 {
			s.P99, s.Engine.KeysQueue, s.Heap = time.Hour, 77, 88
		}
		samples = append(samples, s)
	}
	thinned := thin(samples, 100)
	peaks := 0
	for _, s := range thinned {
		if s.P99 == time.Hour && s.Engine.KeysQueue == 77 && s.Heap == 88 {
			peaks++
		}
	}
	if last := thinned[len(thinned)-1]; len(thinned) > 100 || peaks != 1 || last.Operations != 999 {
		t.Errorf("%d samples, %d with the peak, %d operations", len(thinned), peaks, last.Operations)
	}
	if samples[509].Engine.KeysQueue != 0 {
		t.Error("what was measured was changed")
	}
}

func TestFiguresAreShort(t *testing.T) {
	for want, got := range map[string]string{
		"1.50 ms": Nanoseconds.Format(1.5e6), "12 s": Nanoseconds.Format(12e9), "250 ns": Nanoseconds.Format(250),
		"3 MiB": Bytes.Format(3 << 20), "123k/s": PerSecond.Format(123456), "12.3M": Plain.Format(12.3e6), "0.0012": Plain.Format(0.0012),
	} {
		if got != want {
			t.Errorf("%q is %q", want, got)
		}
	}
}

func TestEveryContenderHasALineOfItsOwn(t *testing.T) {
	styles := map[string]bool{}
	for i := range side {
		e := entry("", i)
		styles[fmt.Sprint(e.Dashes)] = true // what tells them apart without colours
	}
	if len(styles) != side {
		t.Errorf("%d contenders have %d kinds of lines", side, len(styles))
	}
}
