#!/usr/bin/env bash
# Prepares Synapse, the reference homeserver, as a peer for the tests between implementations: the versions of
# test/synapse/requirements.txt, from PyPI, in a virtual environment of their own in the user's cache folder, where
# later runs find it. Prints the environment's Python.
#
#   PARLEY_TEST_SYNAPSE=$(test/synapse.sh) go test -tags goolm ./test/federation -run Synapse
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=test/synapse/requirements.txt
venv=${XDG_CACHE_HOME:-$HOME/.cache}/parley-test/synapse
if ! cmp -s "$wanted" "$venv/requirements.txt"; then
	rm -rf "$venv"
	python3 -m venv "$venv" >&2
	"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: -r "$wanted" >&2
	cp "$wanted" "$venv/requirements.txt" # last: what is there is whole
fi
echo "$venv/bin/python"
