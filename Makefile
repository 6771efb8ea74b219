# What there is to run, for people and for CI. docs/contributing.md says when to run which.

GO ?= go
# How often each fuzz target runs in `make fuzz`. A number of runs and not a time: when its time ends in a bad moment, Go's
# fuzzer reports the end as a failure ("context deadline exceeded").
FUZZTIME ?= 30000x

# How long people live with crashing nodes in `make soak`.
SOAK ?= 10m

.PHONY: all build check test interop soak fuzz bench smoke docs

all: check build

build:
	$(GO) build -o bin/parley ./cmd/parley

# Seconds to a minute: what a machine can see without running the server.
check:
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
		test -z "$$unformatted" || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test ./internal/archtest ./internal/gen/...

# Everything, on both databases; sets up what it needs.
test:
	./test/run.sh
	$(GO) test ./roomserver/state/resolve # all its cases, as without the race detector they are quick

# Parley and a Synapse, which it installs in the user's cache folder: the tests that have both.
interop: build
	PARLEY_TEST_SYNAPSE=$$(test/synapse.sh) PARLEY_TEST_REQUIRE=synapse PARLEY_TEST_BINARY=$(CURDIR)/bin/parley \
		$(GO) test -tags goolm -count=1 -timeout 20m -v -run '^TestSynapse$$|^TestJS$$/^synapse$$|^TestMautrix$$/^synapse$$' ./test/federation ./test/e2ee

# Encrypted rooms on three nodes that crash: every message must be readable for whom it is.
soak: build
	PARLEY_SOAK=$(SOAK) PARLEY_TEST_BINARY=$(CURDIR)/bin/parley $(GO) test -tags goolm -count=1 -timeout 2h -v -run '^TestSoak$$' ./test/soak

# Each fuzz target some thousand times. One for longer:
# go test ./config -run '^$' -fuzz FuzzLoad -fuzztime 1h
fuzz:
	@for dir in $$(grep -rl --include='*_test.go' --exclude-dir=node_modules '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$dir/*_test.go); do \
			echo "$$dir $$target"; \
			$(GO) test $$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x || exit 1; \
		done; \
	done

bench:
	$(GO) run ./test/bench
	$(GO) test -run '^$$' -bench Members ./internal/pushrules
	$(GO) test -run '^$$' -bench Resolve -benchtime 1x -timeout 30m ./roomserver

# The binary with its default configuration: two people register and talk.
smoke: build
	PARLEY_TEST_BINARY=$(CURDIR)/bin/parley $(GO) test -count=1 -run '^TestConversation$$/^sqlite$$/^twoPeopleTalk$$' ./test/client

# What is generated from the code, the configuration's reference for one.
docs:
	$(GO) generate ./...
