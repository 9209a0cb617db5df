# Everything here runs on a Debian machine with Go and root. What else is needed
# comes from apt (.ci/setup says what before it installs it) and from Go's
# module proxy. Build results go to .build/.

SHELL       := bash
STATICCHECK := .build/staticcheck-v0.8.2/staticcheck
LATEST      := -modfile=go.latest.mod
BUILDCTL    := .build/buildctl-v0.25.2 .build/buildctl-v0.34.2
TESTFLAGS   ?=

# A checkout that belongs to another user is none of Go's business.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.PHONY: help build demo test fmt vet staticcheck unit unit-latest setup-demo setup-test setup-dockerd clean

help:
	@echo "make demo         build a Dockerfile on overlay2, twice; look at it; prune it; check that nothing is left"
	@echo "make test         formatting, vet, staticcheck, and all tests with the race detector and with both module files"
	@echo "make test-dockerd all tests on dockerd 28.5.2, with graphsnap in it and as it is"
	@echo "make bench        measure graphsnap beside its peers, as in the README's table"
	@echo "make demo-farm    two graphsnapd in network namespaces, a registry between them: one takes what the other built"
	@echo "make corpus       Dockerfiles whose images must be those of stock buildkitd and dockerd, byte by byte"
	@echo "make bench-export how long the export of a small change on a large base takes, beside stock buildkitd"
	@echo "make stress       the stress harness under the race detector, in the size of CI; make report for its pages"
	@echo "make crash        a process that dies at every crash point, within Docker's drivers, and under load"
	@echo "make crash-power  the power goes after each crash point, on real file systems"
	@echo "make powerloss    what was written and not synced is lost or reordered, for the database and directories"
	@echo "make fuzz         records and whole databases that are mutated"
	@echo "make test-containerd  containerd's own suite, real containerds and buildkitds as clients"
	@echo "make mutate       faults planted one at a time in actors, persist, mounts and engine: do tests notice?"
	@echo "make build        .build/graphsnapd and BuildKit's stock buildctl"
	@echo "make clean        remove .build"

build: $(BUILDCTL)
	go build -o .build/graphsnapd ./adapter/graphsnapd

demo: setup-demo build
	.ci/with-scratch .ci/demo

test: setup-test fmt vet staticcheck unit unit-latest

fmt:
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi

vet:
	go vet ./...
	go vet $(LATEST) ./...

staticcheck: $(STATICCHECK)
	$(STATICCHECK) ./...

# dockerd's own tests need dockerd, which takes long to build: see test-dockerd.
unit: $(BUILDCTL)
	.ci/with-scratch go test -race -count=1 -timeout 10m $(TESTFLAGS) $$(go list ./... | grep -v /adapter/dockerd$$)
	GRAPHSNAP_BOUNDS=1 .ci/with-scratch go test -race -count=1 -timeout 10m $(TESTFLAGS) ./engine

# The newest BuildKit and containerd, compiled from the same source.
unit-latest: $(BUILDCTL)
	.ci/with-scratch go test $(LATEST) -count=1 -timeout 10m $(TESTFLAGS) $$(go list ./... | grep -v /adapter/dockerd$$)

setup-demo:
	@.ci/setup demo

setup-test:
	@.ci/setup test

setup-dockerd:
	@.ci/setup dockerd

$(STATICCHECK):
	GOBIN="$$PWD/$(@D)" go install honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Stock clients come from BuildKit's own module, built inside it so that its
# go.mod alone decides about their dependencies.
.build/buildctl-%:
	target="$$PWD/$@"; mkdir -p .build && \
	cd "$$(go mod download -json github.com/moby/buildkit@$* | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p')" && \
	CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" go build -o "$$target" ./cmd/buildctl

clean:
	rm -rf .build

# dockerd 28.5.2 with graphsnap in it, bin/dockerd, and as it is, bin/dockerd-stock.
.PHONY: dockerd bench-dockerd
dockerd:
	adapter/dockerd/build

# A wide build on both of them in turn, five times each.
bench-dockerd: setup-dockerd dockerd
	.ci/with-scratch go test -run '^$$' -bench '^BenchmarkWideBuild$$' -benchtime 5x -v -timeout 1h ./adapter/dockerd

# The tests on real dockerds: builds both of them first.
.PHONY: test-dockerd
test-dockerd: setup-dockerd dockerd
	.ci/with-scratch go test -count=1 -timeout 40m -v $(TESTFLAGS) ./adapter/dockerd

# Ten times as many power losses as in the other tests.
.PHONY: powerloss
powerloss: setup-test
	GRAPHSNAP_POWERLOSS=10 .ci/with-scratch go test -count=1 -timeout 2h -v $(TESTFLAGS) ./stress/powerloss

# graphsnap beside dockerd's snapshotter, containerd's and a bare loop, interleaved:
# about ten minutes. BENCHFLAGS='-rows pair' chooses rows.
.PHONY: bench bench-smoke
bench: setup-test
	mkdir -p .build
	go build -o .build/bench ./stress/bench
	.ci/with-scratch .build/bench -json "$$PWD/.build/bench.json" $(BENCHFLAGS)

# Every benchmark once, in a tiny size, to see that all of them work.
bench-smoke:
	go test -short -run '^$$' -bench . -benchtime 1x ./actors ./persist ./mounts ./engine
	.ci/with-scratch go run ./stress/bench -smoke

# A corpus of Dockerfiles on graphsnapd and stock buildkitd of two versions, and on
# both dockerds: the images must be the same but for times. About ten minutes.
.PHONY: corpus
corpus: setup-test setup-dockerd $(BUILDCTL) dockerd
	GRAPHSNAP_CORPUS=1 .ci/with-scratch go test -count=1 -timeout 30m -run '^TestCorpus$$' $(TESTFLAGS) ./adapter/graphsnapd ./adapter/dockerd
	GRAPHSNAP_CORPUS=1 .ci/with-scratch go test $(LATEST) -count=1 -timeout 30m -run '^TestCorpus$$' $(TESTFLAGS) ./adapter/graphsnapd

# Two graphsnapd in network namespaces of their own, with a registry between them.
.PHONY: demo-farm
demo-farm: build
	@.ci/setup farm
	.ci/with-scratch .ci/demo-farm

# How long the export of a small change on a base of 1 GiB takes, beside stock
# buildkitd.
.PHONY: bench-export
bench-export: setup-test $(BUILDCTL)
	GRAPHSNAP_EXPORT_TIME=1 .ci/with-scratch go test -count=1 -timeout 30m -v -run '^TestExportTime$$' ./adapter/graphsnapd
	GRAPHSNAP_EXPORT_TIME=1 .ci/with-scratch go test $(LATEST) -count=1 -timeout 30m -v -run '^TestExportTime$$' ./adapter/graphsnapd

# containerd's snapshotter suite on every driver, and real containerds and buildkitds
# with graphsnapd as their snapshotter, and docker buildx with graphsnapd behind TLS, with
# both module files.
.PHONY: test-containerd
test-containerd: setup-test setup-dockerd .build/buildkitd-v0.34.2 $(BUILDCTL)
	GRAPHSNAP_CONTAINERD=1 .ci/with-scratch go test -count=1 -timeout 20m -v $(TESTFLAGS) ./adapter/containerd
	GRAPHSNAP_CONTAINERD=1 .ci/with-scratch go test $(LATEST) -count=1 -timeout 20m -v $(TESTFLAGS) ./adapter/containerd
	GRAPHSNAP_CONTAINERD=1 .ci/with-scratch go test -count=1 -timeout 20m -v $(TESTFLAGS) -run 'OnSnapshots$$|^TestBuildxRemote$$' ./adapter/graphsnapd
	GRAPHSNAP_CONTAINERD=1 .ci/with-scratch go test $(LATEST) -count=1 -timeout 20m -v $(TESTFLAGS) -run 'OnSnapshots$$|^TestBuildxRemote$$' ./adapter/graphsnapd

.build/buildkitd-%:
	target="$$PWD/$@"; mkdir -p .build && \
	cd "$$(go mod download -json github.com/moby/buildkit@$* | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p')" && \
	CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" go build -o "$$target" ./cmd/buildkitd

# Each fuzz target for ten minutes, or for FUZZTIME. What is found is kept in testdata.
.PHONY: fuzz
FUZZTIME ?= 10m
fuzz:
	go test -run '^$$' -fuzz '^FuzzDecodeRecord$$' -fuzztime $(FUZZTIME) -timeout 0 ./persist
	go test -run '^$$' -fuzz '^FuzzOpenMutated$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 1x -timeout 0 ./persist

# Processes that die: at every crash point, before every system call of a driver, and at
# 300 moments under load.
.PHONY: crash crash-hour
crash: setup-test
	go vet -tags crashpoints ./actors/... ./adapter
	.ci/with-scratch go test -tags crashpoints -count=1 -timeout 30m -parallel 3 -v -run '^TestKilledAtEachCrashPoint$$' ./adapter
	GRAPHSNAP_CRASH_ROUNDS=80 .ci/with-scratch go test -count=1 -timeout 30m -v -run '^TestKilledUnderLoad$$' ./adapter

# Machines that lose their power after each crash point, on ext4 and btrfs.
.PHONY: crash-power
crash-power: setup-test
	.ci/with-scratch go test -tags crashpoints -count=1 -timeout 30m -parallel 3 -v -run '^TestPowerLostAtEachCrashPoint$$' ./adapter

# Under load for an hour, or for CRASH_DURATION.
CRASH_DURATION ?= 1h
crash-hour: setup-test
	GRAPHSNAP_CRASH_DURATION=$(CRASH_DURATION) .ci/with-scratch go test -count=1 -timeout 0 -v -run '^TestKilledUnderLoad$$' ./adapter

# Small faults planted in actors, persist, mounts and engine one at a time, to see that
# tests notice: all of them, and as many of each kind as take some minutes.
.PHONY: mutate mutate-sample
mutate: setup-test
	.ci/with-scratch go run ./stress/mutate -json .build/mutate.json $(MUTATEFLAGS)

mutate-sample: setup-test
	.ci/with-scratch go run ./stress/mutate -sample 40

# A wide build beside stock buildkitd of the same version; see also bench-dockerd.
.PHONY: bench-wide
bench-wide: setup-test $(BUILDCTL) .build/buildkitd-v0.25.2
	GRAPHSNAP_WIDE_TIME=1 .ci/with-scratch go test -count=1 -timeout 30m -v -run '^TestWideTime$$' ./adapter/graphsnapd

# Short histories with a clock of their own: what each seed says, with faults of driver
# and database and with restarts. A seed that fails is printed, and repeats.
REPLAYS ?= 3000
replays:
	GRAPHSNAP_SEEDS=$(REPLAYS) go test -tags crashpoints -count=1 -timeout 15m -v -run '^TestReplays$$|^TestASeedThatFailsRepeats$$' ./stress/run

# The stress harness under the race detector, in the size of CI: a million operations
# on the null driver and 20,000 of each target on overlay2, with faults and without.
.PHONY: stress replays
STRESS := .build/stress
# With -race, continuity fails the compiler's check of pointers in overlay2's homes of
# many directories (fs.SupportsDType).
NO_CHECKPTR := -gcflags=github.com/containerd/continuity/fs=-d=checkptr=0
stress: replays
	go build -race $(NO_CHECKPTR) -tags crashpoints -o $(STRESS) ./stress
	.ci/with-scratch $(STRESS) -workload reads -clients 64 -ops 300000
	.ci/with-scratch $(STRESS) -workload reads -clients 64 -ops 200000 -restart 5s -checkpoint 10s \
		-fault driver.error=0.01,driver.panic=0.005,driver.delay=0.05,layers.error=0.01,layers.panic=0.005,database.error=0.001,database.panic=0.001,database.full=0.005,database.delay=0.05,cancel=0.02
	.ci/with-scratch $(STRESS) -workload four-keys -clients 64 -ops 700000
	.ci/with-scratch $(STRESS) -driver overlay2 -clients 32 -ops 20000 -report "$$PWD/.build/stress.html"
	.ci/with-scratch $(STRESS) -workload writes -clients 64 -duration 500ms -rounds 2 -sweep batch=1,64 -report "$$PWD/.build/stress-sweep.html"
	.ci/with-scratch $(STRESS) -driver overlay2 -clients 32 -ops 10000 -restart 5s \
		-fault driver.error=0.01,driver.panic=0.005,driver.delay=0.05,layers.error=0.01,layers.panic=0.005,database.error=0.001,database.panic=0.001,database.full=0.005,database.delay=0.05,cancel=0.05
	.ci/with-scratch $(STRESS) -clients 64 -ops 30000 -kill 4s
	.ci/with-scratch $(STRESS) -driver overlay2 -clients 32 -ops 5000 -kill 5s
	.ci/with-scratch $(STRESS) -target engine -driver overlay2 -clients 32 -ops 5000 -full-disk 64
	.ci/with-scratch $(STRESS) -target containerd -clients 64 -ops 40000 -restart 5s -fault driver.error=0.01,driver.panic=0.005,driver.delay=0.05,cancel=0.02
	.ci/with-scratch $(STRESS) -target engine -driver overlay2 -clients 32 -ops 20000
	.ci/with-scratch $(STRESS) -target containerd -driver overlay2 -clients 32 -ops 20000
	.ci/with-scratch $(STRESS) -target engine -driver vfs -clients 32 -ops 4000
	.ci/with-scratch $(STRESS) -target containerd -driver btrfs -clients 32 -ops 4000 -kill 5s
	.ci/with-scratch $(STRESS) -driver overlay2 -scripts
	.ci/with-scratch $(STRESS) -target containerd -driver overlay2 -trace stress/testdata/demo.trace.gz -speed 0
	.ci/with-scratch $(STRESS) -driver overlay2 -trace stress/testdata/demo.trace.gz -speed 4

# What a stock buildkitd asks of a snapshotter while it builds the demo, as a trace.
.PHONY: record-trace
record-trace: setup-test .build/buildkitd-v0.34.2 $(BUILDCTL)
	go build -o .build/record ./stress/trace/record
	.ci/with-scratch .ci/record-trace "$$PWD/.build/record" "$$PWD/stress/testdata/demo.trace.gz"

# Pages in .build: a minute on overlay2, and what the size of a batch buys.
.PHONY: report
report:
	go build -o $(STRESS) ./stress
	.ci/with-scratch $(STRESS) -driver overlay2 -clients 32 -duration 1m -report "$$PWD/.build/stress.html"
	.ci/with-scratch $(STRESS) -workload writes -duration 5s -sweep batch=1,16,64,1024 -report "$$PWD/.build/stress-sweep.html"
