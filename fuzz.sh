#!/bin/sh
# Runs the fuzz targets one after the other, each for the same time.
#
#   sh fuzz.sh            1 minute for each target
#   sh fuzz.sh 1h         1 hour for each target
#   sh fuzz.sh 5m Window  5 minutes for each target whose name contains Window
#
# A target writes each failing input to testdata/fuzz, and every later test run tries
# it again. Commit the input together with the fix.
set -eu
cd "$(dirname "$0")"
time=${1:-1m}
binary=$(mktemp) log=$(mktemp)
cache=$(go env GOCACHE)/fuzz
trap 'rm -f "$binary" "$log"' EXIT
failed=

run() { # run FOLDER TARGET: runs TARGET in its folder, because its corpus is there
	echo "== $2"
	{
		(cd "$1" && "$binary" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$time" -test.fuzzminimizetime 5s -test.fuzzcachedir "$cache/latchkey/$1" \
			-test.parallel "${FUZZ_WORKERS:-2}" 2>&1) || echo "fuzz.sh: failed"
	} | tee "$log"
	# Before 1.27, Go may report the end of the fuzz time as a failure (golang/go#75804). No input has failed then.
	if grep -q '^fuzz.sh: failed' "$log" && { grep -q 'Failing input' "$log" || ! grep -q '^ *context deadline exceeded' "$log"; }; then
		failed="$failed $2"
	fi
}

for folder in $(grep -l '^func Fuzz' *_test.go */*_test.go internal/*/*_test.go | xargs -n 1 dirname | sort -u); do
	targets=$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(f \*testing.F).*/\1/p' "$folder"/*_test.go | grep -- "${2:-.}") || continue
	go test -vet=off -fuzz=Fuzz -c -o "$binary" "./$folder" # one build for all targets of the folder
	for target in $targets; do
		run "$folder" "$target"
	done
done
[ -z "$failed" ] || { echo "fuzz.sh: failed:$failed" >&2; exit 1; }
