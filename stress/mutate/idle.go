package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// hangsAfter is how long a process does nothing before it is taken to wait for
// something that does not come. No test waits that long.
const hangsAfter = 5 * time.Second

// untilIdle returns true when the process has used no processor, and has had no child,
// for hangsAfter, and false when ctx ends or nothing is known of the process. Most
// faults that hang are deadlocks: their tests need not be waited for to the end.
func untilIdle(ctx context.Context, pid int) bool {
	tick := time.NewTicker(hangsAfter / 10)
	defer tick.Stop()
	last, since := -1, time.Now()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		used, err := ticks(pid)
		if err != nil {
			return false
		}
		children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, name := range children {
			if text, err := os.ReadFile(name); err == nil && len(text) > 0 {
				last = -1
			}
		}
		// A goroutine that wakes up now and then costs a tick in seconds.
		if err != nil || last < 0 || used > last+1 {
			last, since = used, time.Now()
		}
		if time.Since(since) > hangsAfter {
			return true
		}
	}
}

// ticks returns how much processor time the process has used, in the kernel's unit.
func ticks(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat cannot be read: %q", pid, text)
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return user + system, err
}
