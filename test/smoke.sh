#!/bin/sh
# The first minutes of a newcomer: start the binary with no configuration file, make an
# account beside the running server, log in, make a room, send a message, read it, stop.
#
#	test/smoke.sh bin/parley
set -eu

binary=$(realpath "$1")
dir=$(mktemp -d)
cd "$dir"

"$binary" serve --listen 127.0.0.1:0 >out 2>log &
server=$!
trap 'kill -KILL $server 2>/dev/null || true; rm -rf "$dir"' EXIT

fail() {
	echo "smoke: $1" >&2
	cat log >&2
	exit 1
}

# The server tells on its standard output where it is, once it is ready.
url=
while [ -z "$url" ]; do
	kill -0 $server 2>/dev/null || fail "the server ended before it was ready"
	url=$(sed -n 's/.*point a client at \(http:[^ ]*\).*/\1/p' out)
	sleep 0.1
done

# call METHOD PATH [BODY] with the access token, once there is one.
token=
call() {
	curl -sS --fail-with-body --max-time 30 -X "$1" ${token:+-H "Authorization: Bearer $token"} ${3:+-H "Content-Type: application/json" --data "$3"} "$url/_matrix/client/v3$2"
}
# field NAME of the JSON object on the standard input, a string.
field() { sed -n 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/p'; }

echo 'correct horse battery' | "$binary" user create smoke --password-file - || fail "user create"
token=$(call POST /login '{"type":"m.login.password","identifier":{"type":"m.id.user","user":"smoke"},"password":"correct horse battery"}' | field access_token)
[ -n "$token" ] || fail "login gave no token"
room=$(call POST /createRoom '{"preset":"private_chat"}' | field room_id)
[ -n "$room" ] || fail "createRoom gave no room"
call PUT "/rooms/$room/send/m.room.message/1" '{"msgtype":"m.text","body":"smoke signal"}' | grep -q event_id || fail "send gave no event"
call GET /sync | grep -q 'smoke signal' || fail "sync does not have the message"

kill -TERM $server
wait $server || fail "the server ended with status $?"
echo "smoke: one login, one message, a clean end"
