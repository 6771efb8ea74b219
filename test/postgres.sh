#!/usr/bin/env bash
# A PostgreSQL cluster for tests: private, in a folder of its own, on a free port of the loopback interface. It never
# touches the system's clusters.
#
#   url=$(test/postgres.sh start DIR)    makes DIR, starts the server, prints a superuser's URL
#   test/postgres.sh stop DIR            stops the server and removes DIR
#
# To run single tests on PostgreSQL by hand:
#   export PARLEY_TEST_POSTGRES=$(test/postgres.sh start /tmp/pg)
set -euo pipefail

usage() {
	echo "usage: $0 start DIR | stop DIR" >&2
	exit 2
}
[[ $# == 2 && $2 == /* ]] || usage
dir=$2

# Debian keeps the server's programs out of PATH.
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
if [[ ! -x $bin/initdb ]]; then
	initdb=$(command -v initdb) || { echo "$0: no initdb, in /usr/lib/postgresql or in PATH" >&2; exit 1; }
	bin=$(dirname "$initdb")
fi

# PostgreSQL refuses to run as root.
as_owner() {
	if [[ $(id -u) == 0 ]]; then
		local user=nobody
		if id -u postgres >/dev/null 2>&1; then user=postgres; fi
		setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups -- "$@"
	else
		"$@"
	fi
}

start() {
	mkdir -m 700 "$dir"
	if [[ $(id -u) == 0 ]]; then
		chown "$(as_owner id -u):$(as_owner id -g)" "$dir"
	fi
	cd "$dir"
	local password
	password=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
	as_owner sh -c 'umask 077; echo "$1" > password' sh "$password"
	as_owner "$bin/initdb" -D "$dir/data" -U postgres --pwfile="$dir/password" --auth=scram-sha-256 \
		--encoding=UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; return 1; }
	# No fsync: only the node is ever killed in a test, never PostgreSQL.
	as_owner sh -c 'cat >> "$1"' sh "$dir/data/postgresql.conf" <<-CONF
		listen_addresses = '127.0.0.1'
		unix_socket_directories = ''
		max_connections = 500
		fsync = off
		full_page_writes = off
		synchronous_commit = off
	CONF
	# Somebody else may take the port first: try a few.
	local port
	for _ in 1 2 3 4 5; do
		port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
		if as_owner "$bin/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w -o "-p $port" start >/dev/null 2>&1; then
			echo "postgres://postgres:$password@127.0.0.1:$port/postgres?sslmode=disable"
			return
		fi
	done
	cat "$dir/server.log" >&2
	return 1
}

stop() {
	cd /
	as_owner "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
	rm -rf "$dir"
}

case $1 in
start) start ;;
stop) stop ;;
*) usage ;;
esac
