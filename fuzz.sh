#!/bin/sh
# Runs every fuzz target for a time each, one after the other.
#
#   sh fuzz.sh            a minute each
#   sh fuzz.sh 1h         an hour each
#   sh fuzz.sh 5m Window  those whose names fit
#
# What a target finds it leaves in testdata/fuzz, from where every test run
# tries it again: keep it with the mend.
set -eu
cd "$(dirname "$0")"
time=${1:-1m}
binary=$(mktemp) log=$(mktemp)
corpus=$(go env GOCACHE)/fuzz/latchkey
trap 'rm -f "$binary" "$log"' EXIT
go test -vet=off -fuzz=Fuzz -c -o "$binary" . # once, not for each target
failed=
for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(f \*testing.F).*/\1/p' *_test.go | grep -- "${2:-.}"); do
	echo "== $target"
	{
		"$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" -test.fuzzminimizetime 5s -test.fuzzcachedir "$corpus" \
			-test.parallel "${FUZZ_WORKERS:-2}" 2>&1 || echo "fuzz.sh: failed"
	} | tee "$log"
	# Go before 1.27 may take the end of the time for a failure (golang/go#75804): then there is no input that fails.
	if grep -q '^fuzz.sh: failed' "$log" && { grep -q 'Failing input' "$log" || ! grep -q '^ *context deadline exceeded' "$log"; }; then
		failed="$failed $target"
	fi
done
[ -z "$failed" ] || { echo "fuzz.sh: failed:$failed" >&2; exit 1; }
