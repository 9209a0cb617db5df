package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/client"
	buildflags "github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/moby/buildkit/util/progress/progresswriter"
	"github.com/tonistiigi/fsutil"
	"github.com/urfave/cli"
	"google.golang.org/grpc/test/bufconn"
)

// memoryBuffer is how much one side of the in-memory connection may be ahead.
const memoryBuffer = 1 << 20

// buildRequest is one build, checked before the daemon starts.
type buildRequest struct {
	solve    client.SolveOpt
	progress string
}

func buildFlags() []cli.Flag {
	return []cli.Flag{
		cli.StringFlag{Name: "file, f", Usage: "Dockerfile (default: CONTEXT/Dockerfile)"},
		cli.StringSliceFlag{Name: "output, o", Usage: "what to make of the result, e.g. type=oci,dest=image.tar (repeatable; default: nothing)"},
		cli.StringSliceFlag{Name: "build-arg", Usage: "build-time variable `KEY=VALUE` (repeatable)"},
		cli.StringSliceFlag{Name: "label", Usage: "image label `KEY=VALUE` (repeatable)"},
		cli.StringFlag{Name: "target", Usage: "stage to build"},
		cli.StringFlag{Name: "platform", Usage: "platforms to build for, comma-separated"},
		cli.StringSliceFlag{Name: "secret", Usage: "secret for the build, id=NAME,src=FILE or id=NAME,env=VARIABLE (repeatable)"},
		cli.StringSliceFlag{Name: "ssh", Usage: "ssh agent or keys for the build, default|ID[=SOCKET|KEY[,KEY]] (repeatable)"},
		cli.StringSliceFlag{Name: "export-cache", Usage: "where to export the cache, e.g. type=local,dest=DIR (repeatable)"},
		cli.StringSliceFlag{Name: "import-cache", Usage: "where to import cache from, e.g. type=local,src=DIR (repeatable)"},
		cli.StringSliceFlag{Name: "allow", Usage: "entitlement for this build: network.host or security.insecure (repeatable)"},
		cli.BoolFlag{Name: "no-cache", Usage: "run every step, whatever the cache holds"},
		cli.StringFlag{Name: "progress", Value: "auto", Usage: "type of progress: auto, plain, tty, rawjson or quiet"},
	}
}

func buildRequestFrom(c *cli.Context) (*buildRequest, error) {
	for _, arg := range c.Args() {
		// After the first argument the parser takes flags it does not know for
		// further arguments.
		if strings.HasPrefix(arg, "-") {
			return nil, usagef("flag provided but not defined: %s (see graphsnapd build --help)", arg)
		}
	}
	if c.NArg() != 1 {
		return nil, usagef("build needs exactly one CONTEXT directory, got %d (see graphsnapd build --help)", c.NArg())
	}
	contextDir := c.Args().First()
	contextFS, err := fsutil.NewFS(contextDir)
	if err != nil {
		return nil, usagef("build context %q: %v", contextDir, err)
	}
	dockerfile := c.String("file")
	if dockerfile == "" {
		dockerfile = filepath.Join(contextDir, "Dockerfile")
	}
	if _, err := os.Stat(dockerfile); err != nil {
		return nil, usagef("Dockerfile: %v", err)
	}
	dockerfileFS, err := fsutil.NewFS(filepath.Dir(dockerfile))
	if err != nil {
		return nil, usagef("directory of the Dockerfile %q: %v", dockerfile, err)
	}

	attrs := map[string]string{"filename": filepath.Base(dockerfile)}
	for flag, prefix := range map[string]string{"build-arg": "build-arg:", "label": "label:"} {
		for _, pair := range c.StringSlice(flag) {
			key, value, ok := strings.Cut(pair, "=")
			if !ok || key == "" {
				return nil, usagef("--%s %q is not KEY=VALUE", flag, pair)
			}
			attrs[prefix+key] = value
		}
	}
	for _, name := range []string{"target", "platform"} {
		if value := c.String(name); value != "" {
			attrs[name] = value
		}
	}
	if c.Bool("no-cache") {
		attrs["no-cache"] = ""
	}

	req := &buildRequest{progress: c.String("progress")}
	if _, err := progressui.NewDisplay(os.Stderr, progressui.DisplayMode(req.progress)); err != nil {
		return nil, usagef("--progress: %v", err)
	}
	req.solve = client.SolveOpt{
		Frontend:            "dockerfile.v0",
		FrontendAttrs:       attrs,
		LocalMounts:         map[string]fsutil.FS{"context": contextFS, "dockerfile": dockerfileFS},
		AllowedEntitlements: c.StringSlice("allow"),
		Session:             []session.Attachable{newRegistryCredentials()},
	}
	if err := buildflags.ValidateAllow(c.StringSlice("allow")); err != nil {
		return nil, usagef("--allow: %v", err)
	}
	if req.solve.Exports, err = buildflags.ParseOutput(c.StringSlice("output")); err != nil {
		return nil, usagef("--output: %v", err)
	}
	if req.solve.CacheExports, err = buildflags.ParseExportCache(c.StringSlice("export-cache")); err != nil {
		return nil, usagef("--export-cache: %v", err)
	}
	if req.solve.CacheImports, err = buildflags.ParseImportCache(c.StringSlice("import-cache")); err != nil {
		return nil, usagef("--import-cache: %v", err)
	}
	if secrets := c.StringSlice("secret"); len(secrets) > 0 {
		provider, err := buildflags.ParseSecret(secrets)
		if err != nil {
			return nil, usagef("--secret: %v", err)
		}
		req.solve.Session = append(req.solve.Session, provider)
	}
	if agents := c.StringSlice("ssh"); len(agents) > 0 {
		configs, err := buildflags.ParseSSH(agents)
		if err != nil {
			return nil, usagef("--ssh: %v", err)
		}
		provider, err := sshprovider.NewSSHAgentProvider(configs)
		if err != nil {
			return nil, fmt.Errorf("--ssh: %w", err)
		}
		req.solve.Session = append(req.solve.Session, provider)
	}
	return req, nil
}

// buildOnce runs a daemon that nobody else can reach, builds, and stops it.
func buildOnce(ctx context.Context, set *settings, req *buildRequest) (err error) {
	d, err := openRoot(set)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.start(set); err != nil {
		return err
	}
	memory := bufconn.Listen(memoryBuffer)
	d.serveInMemory(memory)

	c, err := client.New(ctx, "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return memory.DialContext(ctx)
	}))
	if err != nil {
		return fmt.Errorf("connect to the daemon in this process: %w", err)
	}
	defer c.Close()

	// The display has a context of its own: after a cancel it still shows which
	// step was cancelled.
	display, err := progresswriter.NewPrinter(context.WithoutCancel(ctx), os.Stderr, req.progress)
	if err != nil {
		return fmt.Errorf("show progress: %w", err)
	}
	_, err = c.Solve(ctx, nil, req.solve, display.Status())
	<-display.Done()
	if err == nil {
		err = display.Err()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("build: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("build: %w", err)
	}
	return nil
}
