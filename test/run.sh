#!/usr/bin/env bash
# All tests, as `make test` runs them: the checks that need no server, every Go test with the race detector on SQLite
# and PostgreSQL, the tests with matrix-js-sdk and with a Synapse as a peer, and each fuzz target some thousand times. It
# sets up what it needs, in temporary folders except for npm's packages and Synapse's, and says at the end what was
# skipped and why.
#
#   PARLEY_TEST_REQUIRE=postgres,js,synapse,s3,coturn,race   fail where one of these would be skipped
#   PARLEY_TEST_INSTALL=no                 install nothing by apt
#   PARLEY_TEST_POSTGRES=URL               use this PostgreSQL, as its superuser, and start none
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS

skipped=()
tmp=$(mktemp -d)
chmod 711 "$tmp" # PostgreSQL runs as another user, in a folder of its own below
finish() {
	local status=$?
	if [[ -d $tmp/postgres ]]; then test/postgres.sh stop "$tmp/postgres" || true; fi
	rm -rf "$tmp"
	for what in "${skipped[@]}"; do echo "SKIPPED $what"; done
	local verdict=passed
	if [[ $status != 0 ]]; then verdict="FAILED with status $status"; fi
	echo "make test $verdict after $((SECONDS - started)) s"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

step() { echo; echo "== $* ($((SECONDS - started)) s)"; }

# skip THING WHY: leaves something out, or ends the run where it is required.
skip() {
	skipped+=("$1: $2")
	if [[ ,${PARLEY_TEST_REQUIRE:-}, == *,$1,* ]]; then
		echo "$1 is required here, but $2" >&2
		exit 1
	fi
}

# install PACKAGE...: by apt, where there is one and we may. Fails quietly: the caller looks whether it is there now.
updated=
install() {
	if [[ ${PARLEY_TEST_INSTALL:-yes} == no || $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then return; fi
	echo "installing $*"
	export DEBIAN_FRONTEND=noninteractive
	if [[ -z $updated ]]; then apt-get update -qq || true; fi
	updated=1
	apt-get install -y -qq --no-install-recommends "$@" >"$tmp/apt.log" 2>&1 || tail -n 5 "$tmp/apt.log"
}

have_postgres() { compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null; }
have_race() { [[ $(go env CGO_ENABLED) == 1 ]] && command -v "$(go env CC)" >/dev/null && go build -race -o /dev/null ./test/summary 2>/dev/null; }

step set up
if [[ -z ${PARLEY_TEST_POSTGRES:-} ]]; then
	have_postgres || install postgresql
	if have_postgres; then
		PARLEY_TEST_POSTGRES=$(test/postgres.sh start "$tmp/postgres")
		export PARLEY_TEST_POSTGRES
		echo "a PostgreSQL cluster in $tmp/postgres"
	else
		skip postgres "there is no PostgreSQL server, and none could be installed"
	fi
fi

if ! command -v npm >/dev/null; then install nodejs npm; fi
if ! command -v npm >/dev/null; then
	skip js "there is no npm, and it could not be installed"
elif ! cmp -s test/js/package-lock.json test/js/node_modules/.installed; then
	if (cd test/js && npm ci --loglevel=error); then
		cp test/js/package-lock.json test/js/node_modules/.installed
	else
		skip js "npm could not install matrix-js-sdk"
	fi
fi

if ! python3 -m venv --help >/dev/null 2>&1 || ! python3 -c 'import ensurepip' 2>/dev/null; then install python3 python3-venv; fi
if PARLEY_TEST_SYNAPSE=$(test/synapse.sh); then
	export PARLEY_TEST_SYNAPSE
else
	unset PARLEY_TEST_SYNAPSE
	skip synapse "pip could not install it"
fi

if PARLEY_TEST_S3=$(test/s3.sh); then
	export PARLEY_TEST_S3
else
	unset PARLEY_TEST_S3
	skip s3 "it could not be built"
fi

command -v turnserver >/dev/null || install coturn
command -v turnserver >/dev/null || skip coturn "there is no turnserver, and it could not be installed"

race=()
have_race || install gcc libc6-dev
if have_race; then race=(-race -gcflags=modernc.org/...=-d=checkptr=0); else skip race "there is no C compiler for Go's race detector"; fi

step check
make --no-print-directory check

step tests
export PARLEY_TEST_BINARY=$tmp/parley
go build "${race[@]}" -o "$PARLEY_TEST_BINARY" ./cmd/parley
go build -o "$tmp/summary" ./test/summary
# The race detector watches Parley: in its own tests, and in the servers of the black-box tests, but not in the client
# library that those run beside them, which has races of its own. goolm: a client that encrypts, without C.
(
	set +e
	mapfile -t units < <(go list ./... | grep -v '^parley/test/')
	go test "${race[@]}" -shuffle=on -count=1 -timeout 30m -json "${units[@]}"
	units_status=$?
	go test -tags goolm -shuffle=on -count=1 -timeout 30m -json ./test/...
	exit $((units_status | $?))
) 2>&1 | "$tmp/summary"

step fuzz
make --no-print-directory fuzz FUZZTIME="${FUZZTIME:-8000x}"
