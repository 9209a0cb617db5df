package report

import (
	"bufio"
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/metrics"
)

func sampleAt(at time.Duration) metrics.Sample {
	return metrics.Sample{
		At: at, Operations: uint64(at / time.Millisecond), P99: 3 * time.Millisecond, InFlight: 5, Errors: 2,
		Engine: &engine.Stats{Database: persist.Stats{Queued: 11}, MountsQueue: 12, KeysQueue: 13},
	}
}

func TestProgressIsPlainLinesWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, "2/6 batch=1", 0, 10*time.Second)
	for at := time.Second; at <= 10*time.Second; at += 500 * time.Millisecond {
		p.Sample(sampleAt(at))
	}
	p.End()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || strings.ContainsAny(out.String(), "\r\x1b") {
		t.Errorf("%q", out.String())
	}
	for _, want := range []string{"2/6 batch=1: ", "1000/s", "p99 3 ms", "11 database, 12 mounts, 13 keys", "2 faults"} {
		if !strings.Contains(lines[len(lines)-1], want) {
			t.Errorf("no %q in %q", want, lines[len(lines)-1])
		}
	}
}

func TestProgressIsABarOnATerminal(t *testing.T) {
	screen, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	terminal, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := NewProgress(terminal, "", 0, 10*time.Second)
	p.Sample(sampleAt(4 * time.Second))
	p.End()
	terminal.WriteString("\nover\n")
	terminal.Close()
	var shown strings.Builder
	for lines := bufio.NewScanner(screen); lines.Scan() && lines.Text() != "over"; {
		shown.WriteString(lines.Text())
	}
	for _, want := range []string{"1000/s", "p99 3 ms", "queues 11·12·13", "faults 2", "40%"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("no %q in %q", want, shown.String())
		}
	}
}
