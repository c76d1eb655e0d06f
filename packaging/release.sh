#!/bin/sh
# Builds the files of a release: an archive and an SBOM for each system, and SHA256SUMS.
# The build is reproducible: the same source and Go version produce the same bytes, in
# every folder.
#
#   sh packaging/release.sh [VERSION [FOLDER]]   defaults: the git tag, dist
#   TARGETS="linux/amd64" sh packaging/release.sh v1.2.3 /tmp/out
set -eu
cd "$(dirname "$0")/.."
version=${1:-$(git describe --tags --always --dirty)}
out=${2:-dist}
targets=${TARGETS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

for target in $targets; do
	os=${target%/*} arch=${target#*/}
	name=latchkey-$version-$os-$arch
	dir=$work/$name
	binary=latchkey
	[ "$os" = windows ] && binary=latchkey.exe
	mkdir "$dir"
	CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$dir/$binary" .
	cp LICENSE README.md CHANGELOG.md config.example.toml "$dir"
	# File times, owners and order are fixed, because the archive contains them.
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar -C "$work" -cf - "$name" | gzip -n -9 >"$out/$name.tar.gz"
	go version -m -json "$dir/$binary" | go run ./packaging/sbom "$version" >"$out/$name.cdx.json"
done
cd "$out"
sha256sum latchkey-"$version"-*.tar.gz latchkey-"$version"-*.cdx.json >SHA256SUMS
