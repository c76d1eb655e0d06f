#!/bin/sh
# Builds the files of a release: two archives, each with an SBOM, for each system, a
# Dockerfile whose base image is named by its digest, and SHA256SUMS. latchkey-cluster
# is latchkey with the client of etcd that a node of a cluster needs; its archive has
# the program under the usual name. The version is the one in
# system.go. The build is reproducible: the same source, Go version and digest produce
# the same bytes, in every folder.
#
#   sh packaging/release.sh [FOLDER]   default: dist
#   TARGETS="linux/amd64" GO_IMAGE_DIGEST=sha256:... sh packaging/release.sh /tmp/out
#
# Without GO_IMAGE_DIGEST the digest is looked up, with docker buildx, skopeo or crane.
# There is no release without it, because a tag can be moved to another image.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^const release = "\(.*\)"$/\1/p' system.go)
out=${1:-dist}
targets=${TARGETS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64}
if ! grep -q "^## $version\$" CHANGELOG.md; then
	echo "release.sh: CHANGELOG.md has no heading \"## $version\", the version in system.go" >&2
	exit 1
fi

image=$(sed -n 's/^ARG GO_IMAGE=//p' Dockerfile)
form='sha256:[0-9a-f]{64}'
digest=${GO_IMAGE_DIGEST:-$({
	docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}' ||
		skopeo inspect --format '{{.Digest}}' "docker://$image" || crane digest "$image"
} 2>/dev/null | grep -xE "$form" || true)}
if ! echo "$digest" | grep -qxE "$form"; then
	echo "release.sh: the digest of $image is not known. Install docker with buildx, skopeo or crane where the registry can be reached, or set GO_IMAGE_DIGEST=sha256:..." >&2
	exit 1
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

for target in $targets; do
	os=${target%/*} arch=${target#*/}
	binary=latchkey
	[ "$os" = windows ] && binary=latchkey.exe
	for program in latchkey latchkey-cluster; do
		name=$program-$version-$os-$arch
		dir=$work/$name
		tags=
		[ "$program" = latchkey-cluster ] && tags=cluster
		mkdir "$dir"
		CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -tags "$tags" -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$dir/$binary" .
		cp LICENSE README.md CHANGELOG.md config.example.toml "$dir"
		# File times, owners and order are fixed, because the archive contains them.
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar -C "$work" -cf - "$name" | gzip -n -9 >"$out/$name.tar.gz"
		go version -m -json "$dir/$binary" | go run ./packaging/sbom "$version" >"$out/$name.cdx.json"
	done
done
sed -e "s|^ARG GO_IMAGE=.*|&@$digest|" -e "s|^ARG VERSION=\$|&$version|" Dockerfile >"$out/latchkey-$version.Dockerfile"
cd "$out"
sha256sum latchkey-"$version"-*.tar.gz latchkey-cluster-"$version"-*.tar.gz latchkey-"$version"-*.cdx.json latchkey-cluster-"$version"-*.cdx.json "latchkey-$version.Dockerfile" >SHA256SUMS
