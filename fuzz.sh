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
cache=$(go env GOCACHE)/fuzz
trap 'rm -f "$binary" "$log"' EXIT
failed=

run() { # run FOLDER TARGET: a target runs in its folder, where its corpus is
	echo "== $2"
	{
		(cd "$1" && "$binary" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$time" -test.fuzzminimizetime 5s -test.fuzzcachedir "$cache/latchkey/$1" \
			-test.parallel "${FUZZ_WORKERS:-2}" 2>&1) || echo "fuzz.sh: failed"
	} | tee "$log"
	# Go before 1.27 may report the end of the time as a failure (golang/go#75804): then no input failed.
	if grep -q '^fuzz.sh: failed' "$log" && { grep -q 'Failing input' "$log" || ! grep -q '^ *context deadline exceeded' "$log"; }; then
		failed="$failed $2"
	fi
}

for folder in $(grep -l '^func Fuzz' *_test.go */*_test.go internal/*/*_test.go | xargs -n 1 dirname | sort -u); do
	targets=$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(f \*testing.F).*/\1/p' "$folder"/*_test.go | grep -- "${2:-.}") || continue
	go test -vet=off -fuzz=Fuzz -c -o "$binary" "./$folder" # once, not for each target
	for target in $targets; do
		run "$folder" "$target"
	done
done
[ -z "$failed" ] || { echo "fuzz.sh: failed:$failed" >&2; exit 1; }
