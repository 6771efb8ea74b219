#!/usr/bin/env bash
# Builds a real S3 server for the tests, from the module test/s3, in the user's cache folder. Prints its path.
#
#   PARLEY_TEST_S3=$(test/s3.sh) go test ./media/blob
set -euo pipefail
cd "$(dirname "$0")/s3"
server=${XDG_CACHE_HOME:-$HOME/.cache}/parley-test/s3server
mkdir -p "$(dirname "$server")"
go build -o "$server" . >&2
echo "$server"
