package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/moby/sys/reexec"
)

// errUsage is wrapped by what is wrong with the command line or with the machine.
var errUsage = errors.New("usage")

func main() {
	if reexec.Init() { // in the process of a target
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "stress:", line(strings.TrimSuffix(err.Error(), ": "+errUsage.Error())))
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "stress:", err)
		os.Exit(1)
	}
}

// line makes one of what a program that was called may have said in several.
func line(message string) string {
	return strings.TrimRight(strings.Join(strings.Split(strings.TrimSpace(message), "\n"), "; "), ": ")
}
