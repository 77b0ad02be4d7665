#!/usr/bin/env bash
# Makes a Debian package of a binary that is there already, the same again each time:
#
#   packaging/deb/build.sh BINARY [FOLDER]        FOLDER: where the package goes, target/deb
#
# The man pages, the completions and the files in /etc/default are printed by the binary itself. With a
# static binary the package fits every release of Debian and Ubuntu for that architecture; otherwise it
# depends on the libraries that the binary was linked with. Needs dpkg-dev. Prints the package's path.
# MAINTAINER and SOURCE_DATE_EPOCH say who made it, and when.
set -euo pipefail

binary=$(realpath "$1")
mkdir -p "${2:-target/deb}"
folder=$(realpath "${2:-target/deb}")
cd "$(dirname "$0")"

version=$("$binary" --version)
version=${version#torrent-cache }
architecture=$(dpkg --print-architecture)
maintainer=${MAINTAINER:-The torrent-cache authors <torrent-cache@packages.invalid>}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
umask 022
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# put MODE FILE PATH: a file of the package.
put() { install -D -m "$1" "${@:4}" "$2" "$root/$3"; }
# made PATH COMMAND...: a file that a command prints, compressed if its name says so.
made() {
  local path=$root/$1
  mkdir -p "$(dirname "$path")"
  if [[ $path == *.gz ]]; then "${@:2}" | gzip -9n >"$path"; else "${@:2}" >"$path"; fi
}

put 755 "$binary" usr/bin/torrent-cache --strip
put 644 copyright usr/share/doc/torrent-cache/copyright
put 644 lintian-overrides usr/share/lintian/overrides/torrent-cache
made usr/share/doc/torrent-cache/changelog.gz cat ../../CHANGELOG.md
made usr/share/doc/torrent-cache/changelog.Debian.gz printf '%s\n' \
  "torrent-cache ($version-1) stable; urgency=medium" '' '  * What changed stands in changelog.gz.' '' \
  " -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
made usr/share/man/man1/torrent-cache.1.gz "$binary" man
made usr/share/bash-completion/completions/torrent-cache "$binary" completions bash
made usr/share/zsh/vendor-completions/_torrent-cache "$binary" completions zsh
made usr/share/fish/vendor_completions.d/torrent-cache.fish "$binary" completions fish
for name in client tracker; do
  unit=torrent-cache-$name.service
  put 644 "../systemd/$unit" "lib/systemd/system/$unit"
  made "usr/share/man/man1/torrent-cache-$name.1.gz" "$binary" man "$name"
  # The unit's own values, so that the file shows what is in force.
  mapfile -t flags < <(sed -n "s:%S:/var/lib:; s/^Environment=/--/p" "../systemd/$unit")
  for index in "${!flags[@]}"; do
    flag=${flags[index]%%=*}
    flags[index]=${flag,,}=${flags[index]#*=}
  done
  made "etc/default/torrent-cache-$name" "$binary" environment "$name" "${flags[@]}"
  # Passwords stand there. systemd reads it as root.
  chmod 640 "$root/etc/default/torrent-cache-$name"
done

# The libraries, if any; dpkg-shlibdeps wants a source package round it.
depends=
if ldd "$binary" >/dev/null 2>&1 && ! ldd "$binary" | grep -q 'statically linked'; then
  source=$(mktemp -d -p "$root")
  mkdir "$source/debian"
  printf 'Source: torrent-cache\n\nPackage: torrent-cache\nArchitecture: any\n' >"$source/debian/control"
  depends=$(cd "$source" && dpkg-shlibdeps -O "$root/usr/bin/torrent-cache" 2>/dev/null)
  depends="Depends: ${depends#shlibs:Depends=}"
  rm -r "$source"
fi

mkdir "$root/DEBIAN"
{
  sed -e "s/@VERSION@/$version-1/" -e "s/@ARCHITECTURE@/$architecture/" \
    -e "s/@MAINTAINER@/$maintainer/" -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" -e "s/^@DEPENDS@$/$depends/" \
    control | sed '/^$/d'
} >"$root/DEBIAN/control"
(cd "$root" && find etc -type f -printf '/%p\n' | sort >DEBIAN/conffiles)
(cd "$root" && find etc lib usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
for script in postinst prerm postrm; do install -m 755 "$script" "$root/DEBIAN/$script"; done
chmod 644 "$root"/DEBIAN/{control,conffiles,md5sums}

package=$folder/torrent-cache_$version-1_$architecture.deb
dpkg-deb --root-owner-group --build -Zxz "$root" "$package" >/dev/null
echo "$package"
