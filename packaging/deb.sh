#!/bin/sh
# Builds a Debian package from BINARY in FOLDER and prints its path. The package is for
# the architecture of this machine.
#
#   sh packaging/deb.sh BINARY VERSION FOLDER   VERSION begins with a digit
set -eu
binary=$1 version=$2
mkdir -p "$3"
out=$(cd "$3" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
arch=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 755 "$root"

install -D -m 755 "$binary" "$root/usr/bin/latchkey"
for unit in latchkey.service latchkey.socket latchkey-admin.socket; do
	install -D -m 644 "$here/packaging/$unit" "$root/lib/systemd/system/$unit"
done
doc=$root/usr/share/doc/latchkey
install -D -m 644 "$here/LICENSE" "$doc/copyright"
install -m 644 "$here/README.md" "$here/CHANGELOG.md" "$here/config.example.toml" "$doc"
# What README.md links to.
(cd "$here" && find docs packaging/prometheus packaging/grafana -type f ! -path 'docs/images/*') | while read -r file; do
	install -D -m 644 "$here/$file" "$doc/$file"
done
# The installed configuration file has no settings: operators add only what they change.
mkdir -p "$root/etc/latchkey"
echo "# Settings: /usr/share/doc/latchkey/config.example.toml has all of them." >"$root/etc/latchkey/config.toml"
mkdir -p "$root/usr/share/man/man1" "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
"$binary" man | gzip -n -9 >"$root/usr/share/man/man1/latchkey.1.gz"
"$binary" completion bash >"$root/usr/share/bash-completion/completions/latchkey"
"$binary" completion zsh >"$root/usr/share/zsh/vendor-completions/_latchkey"
"$binary" completion fish >"$root/usr/share/fish/vendor_completions.d/latchkey.fish"

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: latchkey
Version: $version
Architecture: $arch
Maintainer: The Latchkey maintainers <latchkey@localhost>
Section: net
Priority: optional
Recommends: ca-certificates
Description: API keys, permissions and limits for an HTTP API
 One static binary keeps hashed keys and exact sliding-window limits in a file of
 its own, guards an HTTP API and has a dashboard. There is no database to install.
END
echo /etc/latchkey/config.toml >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
pepper=$DPKG_ROOT/etc/latchkey/pepper
first=no
if [ "$1" = configure ] && [ ! -e "$pepper" ]; then
	first=yes
	# The pepper belongs to root and is not in the data folder. The unit passes it to the service.
	(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$pepper.new" && echo >>"$pepper.new" && mv "$pepper.new" "$pepper")
fi
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart latchkey.service
fi
if [ "$first" = yes ]; then
	cat <<HINT

Latchkey is installed and not started yet. As root:

  systemctl enable --now latchkey    start it, now and with the machine
  latchkey admin setup-link          print the link for the first login at the dashboard
  latchkey status                    see whether anything needs attention

Settings are in /etc/latchkey/config.toml; none is required. Keep a copy of
/etc/latchkey/pepper: without it no key is valid, and no backup has it.

HINT
fi
END
cat >"$root/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
	systemctl disable --now latchkey.socket latchkey-admin.socket latchkey.service
fi
END
cat >"$root/DEBIAN/postrm" <<'END'
#!/bin/sh
set -e
# A purge keeps /var/lib/latchkey and the pepper, because without them no key is valid.
if [ "$1" = purge ]; then
	echo "latchkey: /var/lib/latchkey and /etc/latchkey/pepper stay; remove them by hand if the keys are not needed any more." >&2
fi
END
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
dpkg-deb --root-owner-group --build "$root" "$out/latchkey_${version}_$arch.deb" >/dev/null
echo "$out/latchkey_${version}_$arch.deb"
