package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/stack"
	"github.com/moby/buildkit/version"
	"github.com/urfave/cli"
)

// Exit codes. A usage error is told apart so that a service manager does not
// restart a daemon whose command line can never work.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func main() {
	// Clients negotiate features with "buildkit", whatever the binary is called.
	apicaps.ExportedProduct = "buildkit"
	version.Version = buildkitVersion()
	stack.SetVersionInfo(version.Version, version.Revision)

	err := newApp().Run(os.Args)
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "graphsnapd: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailure)
}

// buildkitVersion is that of the BuildKit compiled in. BuildKit's own release
// stamps it at link time, which a module that imports it cannot rely on.
func buildkitVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == version.Package {
				return dep.Version
			}
		}
	}
	return version.Version
}

func newApp() *cli.App {
	onUsageError := func(_ *cli.Context, err error, _ bool) error {
		return usageError{fmt.Errorf("%w (see graphsnapd --help)", err)}
	}
	app := cli.NewApp()
	app.Name = "graphsnapd"
	app.Usage = "build daemon: BuildKit on Docker's graph drivers"
	app.Version = version.Version
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintf(c.App.Writer, "graphsnapd with BuildKit %s\n", c.App.Version) }
	app.Flags = append(daemonFlags(), addressFlags()...)
	app.OnUsageError = onUsageError
	app.Action = func(c *cli.Context) error {
		if c.NArg() > 0 {
			return usagef("unexpected argument %q (see graphsnapd --help)", c.Args().First())
		}
		set, err := settingsFrom(c)
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(context.Background())
		defer stop()
		return serve(ctx, set)
	}
	app.Commands = []cli.Command{{
		Name:         "build",
		Usage:        "start the daemon in this process, build once, and end",
		ArgsUsage:    "CONTEXT",
		Flags:        append(daemonFlags(), buildFlags()...),
		OnUsageError: onUsageError,
		Action: func(c *cli.Context) error {
			set, err := settingsFrom(c)
			if err != nil {
				return err
			}
			req, err := buildRequestFrom(c)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(context.Background())
			defer stop()
			return buildOnce(ctx, set, req)
		},
	}, {
		Name:         "check",
		Usage:        "compare what a stopped daemon has on disk, and mend it",
		Description:  checkDescription,
		Flags:        checkFlags(),
		OnUsageError: onUsageError,
		Action: func(c *cli.Context) error {
			set, err := checkSettingsFrom(c)
			if err != nil {
				return err
			}
			return runCheck(context.Background(), set, c.App.Writer)
		},
	}, {
		Name:         "snapshotter",
		Usage:        "serve snapshots to containerd or buildkitd",
		Description:  snapshotsDescription,
		Flags:        snapshotsFlags(),
		OnUsageError: onUsageError,
		Action: func(c *cli.Context) error {
			set, err := snapshotsSettingsFrom(c)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(context.Background())
			defer stop()
			return serveSnapshots(ctx, set)
		},
	}}
	return app
}
