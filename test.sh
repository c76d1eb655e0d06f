#!/bin/sh
# Installs missing tools, checks the code, and runs all tests, many of them with the race detector.
#
#   sh test.sh            all tests: about 10 minutes on two cores, more after a first checkout
#   sh test.sh -quick     no browser, proxies, packages, torture or race detector: about 3 minutes
#   sh test.sh -run Keys  passes other arguments to go test
#
# If a test shows no activity for 2 minutes, it is ended and the stacks of its
# goroutines are printed. STUCK=1h sets another time, for the long forms of the tests.
set -eu
cd "$(dirname "$0")"

quick= race=-race
if [ "${1-}" = -quick ]; then
	quick=-short race= # the race detector more than doubles the time
	shift
fi

missing= packages=
need() { # need COMMAND PACKAGE REASON: records the Debian PACKAGE if COMMAND is missing
	command -v "$1" >/dev/null && return
	echo "test.sh: $1 is missing ($3); it is in the package $2"
	missing="$missing $1" packages="$packages $2"
}
need go golang "builds the program"
need gcc gcc "the race detector needs it"
need git git "version of the build"
if [ -z "$quick" ]; then
	need curl curl "runs the commands of the docs"
	need strace strace "makes system calls fail and records writes"
	need chromium chromium "goes through the dashboard"
	need npm npm "fetches axe-core, which checks the pages"
	need systemd-analyze systemd "checks the unit file"
	need man man-db "shows the man page"
	need dpkg-deb dpkg "builds the package"
	need nginx nginx-light "asks for permission as a proxy"
	need haproxy haproxy "asks for permission as a proxy"
	need etcd etcd-server "agrees on changes in the tests of clusters"
fi

install() { # sets a policy, so that new packages do not start their services
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	echo "test.sh: installing$packages, without starting any service"
	# shellcheck disable=SC2086 # each package is one word
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null
}
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "test.sh: install these packages and run it again:$packages" >&2
		exit 1
	fi
	(install)
	for command in $missing; do
		command -v "$command" >/dev/null || { echo "test.sh: $command is still missing" >&2; exit 1; }
	done
fi

step() { # step NAME COMMAND...: runs COMMAND and prints its duration in seconds
	name=$1 began=$(date +%s)
	shift
	"$@" || { echo "test.sh: failed: $name" >&2; exit 1; }
	echo "ok   $name ($(($(date +%s) - began)) s)"
}
formatted() {
	unformatted=$(find . -name "*.go" -not -path "*/vendor/*" -exec gofmt -l {} +)
	[ -z "$unformatted" ] || { echo "run gofmt -w on: $unformatted" >&2; return 1; }
}
builds() { # the programs that the tests drive; with -trimpath they share compiled packages with the test of packaging/release.sh
	CGO_ENABLED=0 go build -trimpath -o "$built/latchkey" . &&
		CGO_ENABLED=0 go build -trimpath -tags cluster -o "$built/latchkey-cluster" .
}
crossed() { # they only have to compile and link, which takes a third of the time without optimization
	GOOS=windows CGO_ENABLED=0 go build -gcflags='all=-N -l' -ldflags='-s -w' -o /dev/null . &&
		GOOS=darwin CGO_ENABLED=0 go build -gcflags='all=-N -l' -ldflags='-s -w' -o /dev/null .
}
beside() { # what runs beside the tests, many of which wait for something
	step staticcheck go tool staticcheck -tags cluster ./...
	step "builds for Windows and macOS" crossed
	[ -z "$quick" ] || return 0
	step "the servers of the benchmarks" go test -C bench/peers .
	LATCHKEY_TEST_PROGRAM="$built/latchkey" step "the guard before the routers of others" go test -C tests/routers .
}
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
step gofmt formatted
step "go mod tidy" go mod tidy -diff
step vet go vet -tags cluster ./...
step builds builds
beside &
beside=$!
spread=". ./tests"
# Tests that do one thing after the other run without the race detector, which would take most of the time for
# them and find nothing: walks over pages, routes, commands or damages, and comparisons with a model. So do those
# that drive the built program, which is without it, and those that count allocations, which it changes.
# TestServer_EveryRouteAtOnce makes requests to all routes and pages at the same time, with the race detector.
# TestScript_Races wants it for every test that starts goroutines.
walks='^latchkey(/tests\.|\.(Test(Browser|Program_)|Test\w+_\w*Allocations|Test('
walks="$walks(Passwords_EveryWay|Server_(PermissionMatrix|Combinations|NothingByGET|StatesAndOwners|OthersAreMissing|rowLimits)|Keyring_(Cache|Rotation)\w+)\$"
walks="$walks|Keyring_(List(Kept|Damaged)?|Holders|DamageReachesCaller)\$|Limiter_(SpendAll|Crash)\$|Store_(Undo|DamageReachesCaller)\$|Clock_(Rows|Scripts)\$"
walks="$walks|Operators_(Faults|Invitation)|OIDC_Lies|Guesses_KnownBrowser|Guards_Variants|Storage_Walk|Router_HEAD|Lists_Model|KeyQuery_Many|AddLists"
walks="$walks|AddrText_|AuditFilter_Page|Audit_|Apply_|Availability_|Commands_|Context_Bounds|Cluster_UsageBounds|Damage_|Display_|EventQuery|Explainer_"
walks="$walks|Find(_|\$)|FoldLetter_|Forms_|Histor(ies\$|y_Ranked)|Imports_|KeyImport_|(Key|Contact|Hook|Owner)?Pages?_|KeysImport_|Layers|Lengths|Migrate_"
walks="$walks|Numbers_|OpenAPI_|Outbox_Property|Output_|Passkeys_|Records_|RecordBytes_|Reference|Registry_|Request_Every|Resources_|Rights_|Roles_"
walks="$walks|RowCache_|Sandbox_|Schedules_|Scope_|Searches_|Secrets_Everywhere|SeedDemo_|Tokens_|Upgrade|WhatIf_|WriteOwnFields_"
walks="$walks|Owners_[A-Z]|Dashboard_(Every|Spaces)|Factors_)))"
[ $# = 0 ] || spread= walks= # other arguments can be of every kind
code=0
# shellcheck disable=SC2086 # $quick and $race are empty or words
LATCHKEY_TEST_PROGRAM="$built/latchkey" LATCHKEY_TEST_CLUSTER="$built/latchkey-cluster" go run ./internal/testwatch -stuck "${STUCK:-2m}" -spread "$spread" -plain "$walks" -- -vet=off $race -timeout 30m $quick "$@" ./... || code=1
wait $beside || {
	echo "test.sh: a check beside the tests failed; its output is above" >&2
	code=1
}
exit $code
