#!/usr/bin/env bash
# The Debian packages on a clean system: a minimal Debian in a folder, into which they are installed by dpkg, with their
# dependencies by apt, and then used.
#   tests/deb/run.sh      as root; needs debootstrap, cargo-c and cargo-deb; the system is kept under ~/.cache/securereg
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$(id -u)" -eq 0 ] || { echo "needs root, for debootstrap and chroot"; exit 77; }
cache="$HOME/.cache/securereg"
suite=bookworm
base="$cache/debian-$suite.tar"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-deb.XXXXXX")
clean="$scratch/root"

clean_up() {
  umount -l "$clean/proc" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

checks=0
ok() { checks=$((checks + 1)); echo "ok: $1"; }
inside() { chroot "$clean" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

deploy/debian.sh "$scratch/debs"

if [ ! -f "$base" ]; then
  mkdir -p "$cache"
  # The mirror and its keys are those of this machine.
  mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -m1 debian || true)
  debootstrap --variant=minbase "$suite" "$scratch/base" ${mirror:+"$mirror"}
  tar -C "$scratch/base" -cf "$base.new" .
  mv "$base.new" "$base"
  rm -rf "$scratch/base"
fi
mkdir "$clean"
tar -C "$clean" -xf "$base"
mount -t proc proc "$clean/proc"
# Whatever this machine needs to reach its mirror.
cp /etc/resolv.conf "$clean/etc/resolv.conf"
cp -r /etc/apt/. "$clean/etc/apt/"
[ ! -d /usr/local/share/ca-certificates ] || cp -r /usr/local/share/ca-certificates "$clean/usr/local/share/"
mkdir "$clean/debs"
cp "$scratch"/debs/*.deb "$clean/debs/"

inside sh -c '! command -v securereg && ! ldconfig -p | grep -q libsecurereg' >/dev/null
ok "nothing of it was there"
inside dpkg -i /debs/libsecurereg0.1_0.1.0-1_amd64.deb /debs/securereg_0.1.0-1_amd64.deb
ok "the library and the command are installed by dpkg alone: a minimal system has all they need"
inside ldconfig -p >"$scratch/out"
grep -q 'libsecurereg.so.0.1 ' "$scratch/out"
ok "the linker knows the library"
inside securereg --version
inside securereg --root /srv/registry promote --help >/dev/null
printf 'GGUF\003\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000' >"$clean/tiny.gguf"
inside securereg --root /srv/registry promote /tiny.gguf --name tiny
inside securereg --root /srv/registry verify --all >"$scratch/out"
grep -q tiny "$scratch/out"
ok "the command promotes and verifies"
for file in systemd/system/secure-ai-registry.socket systemd/system/secure-ai-registry.service systemd/system/secure-ai-registry-mount.service \
  systemd/system/secure-ai-registry-verify.service systemd/system/secure-ai-registry-verify.timer sysusers.d/secure-ai-registry.conf \
  tmpfiles.d/secure-ai-registry.conf; do
  [ "$(stat -c '%a %U' "$clean/usr/lib/$file")" = "644 root" ]
done
ok "its units, users and folders are there (run by tests/systemd/run.sh)"
inside dpkg -i /debs/libsecurereg-dev_0.1.0-1_amd64.deb
ok "the development package fits the library"

# A program built on this machine against what the package put there, run in the clean system.
cat >"$scratch/program.c" <<'C'
#include <securereg.h>
#include <stdio.h>
int main(void) {
  securereg_registry registry = {0};
  securereg_error error = {0};
  if (securereg_open("/srv/registry", NULL, &registry, &error) != SECUREREG_OK) {
    fprintf(stderr, "%s\n", securereg_error_message(error));
    return 1;
  }
  uint64_t generation = 0;
  securereg_generation(registry, &generation, NULL);
  printf("%s %llu\n", securereg_version(), (unsigned long long)generation);
  return securereg_close(registry);
}
C
flags=$(PKG_CONFIG_SYSROOT_DIR="$clean" PKG_CONFIG_LIBDIR="$clean/usr/lib/pkgconfig" pkg-config --cflags --libs securereg)
# shellcheck disable=SC2086 # several words
cc -o "$clean/program" "$scratch/program.c" $flags "-I$clean/usr/include" "-L$clean/usr/lib"
[ "$(inside /program)" = "0.1.0 1" ]
ok "a program built with pkg-config runs with the installed library"
# shellcheck disable=SC2046 # several words
cc -o "$clean/static" "$scratch/program.c" "-I$clean/usr/include" "$clean/usr/lib/libsecurereg.a" \
  $(sed -n 's/^Libs.private: *//p' "$clean/usr/lib/pkgconfig/securereg.pc")
[ "$(inside /static)" = "0.1.0 1" ]
ok "and so does one with the static library in it"
inside dpkg -r libsecurereg-dev securereg libsecurereg0.1
inside sh -c '! command -v securereg && ! ldconfig -p | grep -q libsecurereg' >/dev/null
[ -e "$clean/srv/registry/manifest.yaml" ]
ok "removed, they leave nothing behind but the registry"
echo "$checks checks passed"
