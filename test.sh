#!/bin/sh
# The whole test command. It installs what the tests need and is missing, then
# checks the form of the code, and runs the tests with the race detector.
#
#   sh test.sh            everything
#   sh test.sh -run Keys  further arguments go to go test
set -eu
cd "$(dirname "$0")"

need() { # need COMMAND PACKAGE: from Debian's packages, as root
	command -v "$1" >/dev/null && return
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2" >/dev/null
	fi
	command -v "$1" >/dev/null || { echo "test.sh: $1 is missing; install the package $2" >&2; exit 1; }
}
need go golang
need gcc gcc # for the race detector
need curl curl
need strace strace # injects faults, records writes
need chromium chromium
need npm npm # fetches axe-core once, which checks the dashboard's pages
need systemd-analyze systemd # for the unit
need man man-db
need dpkg-deb dpkg
need git git # for the release
need nginx nginx-light # proxies that ask
need haproxy haproxy

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "test.sh: run gofmt -w on: $unformatted" >&2
	exit 1
fi
go mod tidy -diff
go vet ./...
go tool staticcheck ./...
CGO_ENABLED=0 go build -o /dev/null .
GOOS=windows CGO_ENABLED=0 go build -o /dev/null .
GOOS=darwin CGO_ENABLED=0 go build -o /dev/null .
exec go test -race -timeout 30m "$@" ./...
