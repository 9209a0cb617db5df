// Package dockerd puts graphsnap into dockerd 28.5.2, and tests it there. It has
// the names that dockerd's builder uses of its own snapshotter's package.
//
// The script build, or `make dockerd`, makes bin/dockerd from the docker/docker
// module in Go's cache, and bin/dockerd-stock from the same source as it is. They
// differ in one import.
//
// # The same for your own dockerd
//
// In a checkout of moby/moby at v28.5.2, or of your fork of it, beside a checkout
// of graphsnap:
//
//	cp vendor.mod go.mod && cp vendor.sum go.sum
//	sed -i 's,"github.com/docker/docker/builder/builder-next/adapters/snapshot",snapshot "github.com/graphsnap/graphsnap/adapter/dockerd",' \
//		builder/builder-next/controller.go
//	go work init . ../graphsnap && go work edit -godebug default=go1.24
//	go build -mod=readonly -o dockerd ./cmd/dockerd
//
// The name of the import keeps the rest of controller.go as it is: [Opt] has the
// fields of dockerd's own, and [NewSnapshotter] its signature. The workspace makes
// graphsnap use your docker/docker instead of the released one, so that both mean
// the same types. The default is that of vendor.mod, which the workspace would raise
// to your toolchain's.
//
// `-ldflags "-X github.com/docker/docker/dockerversion.Version=28.5.2"` stamps the
// version that clients see.
//
// Stop dockerd, replace its binary, start it: the build cache stays, and so it
// does on the way back.
//
// # Tests
//
// The tests run either binary as root on a containerd of their own, in a
// directory of their own, with stock clients: docker with the buildx plugin, and
// buildctl through dockerd's /grpc. What stock dockerd is known to do wrong is
// shown on it in the same test.
package dockerd
