#!/usr/bin/env bash
# The units: what systemd says of them, and the units themselves under a real systemd, in a container over this machine's own files.
#   tests/systemd/run.sh      as root; needs systemd, systemd-container, util-linux, curl and /dev/fuse
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$(id -u)" -eq 0 ] || { echo "needs root, for the container"; exit 77; }
for tool in systemd-analyze systemd-nspawn setpriv curl; do
  command -v "$tool" >/dev/null || { echo "$tool is not installed"; exit 1; }
done
units=deploy/systemd
scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-systemd.XXXXXX")
name="securereg-systemd-$$"

clean_up() {
  umount -l "$scratch/over/root" 2>/dev/null || true
  umount -l "$scratch/over" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

checks=0
ok() { checks=$((checks + 1)); echo "ok: $1"; }
fail() { echo "FAILED: $1"; exit 1; }

# What systemd-analyze makes of a unit: its own figure, and the sum that this is rounded from.
overall() { systemd-analyze security --offline=true "$1" | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p'; }
exposure() { systemd-analyze security --offline=true --json=short "$1" | grep -o '"exposure":"[0-9.]*"' | grep -o '[0-9.]*' | awk '{ sum += $1 } END { print sum + 0 }'; }
at_most() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && a <= b) }'; }
more() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }

for unit in secure-ai-registry secure-ai-registry-verify; do
  score=$(overall "$units/$unit.service")
  at_most "$score" 1.0 || fail "$unit.service is exposed by $score, which is over 1.0"
  ok "$unit.service: exposed by $score of 10, at most 1.0"
done
echo "   secure-ai-registry-mount.service: $(overall $units/secure-ai-registry-mount.service), which does not count what the daemon gives up itself"

# The check can fail: each of these lines, taken away, is noticed.
mkdir "$scratch/without"
registry="$units/secure-ai-registry.service"
whole=$(exposure "$registry")
for key in ProtectSystem ProtectHome PrivateTmp NoNewPrivileges PrivateDevices PrivateUsers PrivateNetwork PrivateMounts ProtectClock \
  ProtectControlGroups ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc ProcSubset RemoveIPC \
  CapabilityBoundingSet LockPersonality MemoryDenyWriteExecute RestrictAddressFamilies RestrictNamespaces RestrictRealtime \
  SystemCallArchitectures SystemCallFilter IPAddressDeny UMask User; do
  grep -q "^$key=" "$registry" || fail "$registry has no line $key="
  # Without its own user it would be root in the group that is left.
  sed "/^$key=/d; $([ "$key" = User ] && echo '/^Group=/d')" "$registry" >"$scratch/without/secure-ai-registry.service"
  less=$(exposure "$scratch/without/secure-ai-registry.service")
  more "$less" "$whole" || fail "without $key= it is exposed by $less as with it ($whole)"
done
ok "each line of its sandbox, removed, makes it worse: from $whole"
for line in ProtectSystem=strict ProtectHome=yes PrivateTmp=yes NoNewPrivileges=yes; do
  grep -qx "$line" "$registry" || fail "$registry has no line $line"
done
[ "$(grep -c '^ReadWritePaths=' "$registry")" = 1 ] || fail "more than one place is written to"
ok "ProtectSystem=strict, ProtectHome, PrivateTmp, NoNewPrivileges, and one ReadWritePaths"

# Each of them would hide the mount from the rest of the machine.
if grep -E '^(Protect(System|Home|Proc|Hostname|ControlGroups|Kernel[A-Za-z]*)|Private[A-Za-z]*|ProcSubset|MountAPIVFS|Root[A-Za-z]*|Bind[A-Za-z]*|(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec)Paths|TemporaryFileSystem|MountFlags|DynamicUser)=' \
  "$units/secure-ai-registry-mount.service"; then
  fail "the mount unit would have a mount namespace of its own"
fi
ok "nothing in the mount unit gives it mounts of its own"
if grep -iE '(token|secret|password|credential)[^ ]*=[^ ]' "$units"/*.service | grep -v '^[^:]*:#'; then
  fail "a secret in an argument or a variable"
fi

# A real systemd, as process 1 of a container whose files are this machine's, written to memory only.
cargo build --locked -p securereg-cli
binary="${CARGO_TARGET_DIR:-target}/debug/securereg"
mkdir "$scratch/over"
mount -t tmpfs tmpfs "$scratch/over"
mkdir "$scratch"/over/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/over/upper,workdir=$scratch/over/work" "$scratch/over/root"
root="$scratch/over/root"
rm -rf "$root"/etc/systemd/system/*.wants "$root/var/lib/secure-ai" "$root/etc/machine-id"
: >"$root/etc/machine-id"
install -m 755 "$binary" "$root/usr/bin/securereg"
install -m 644 -D -t "$root/usr/lib/systemd/system" "$units"/*
install -m 644 -D -t "$root/usr/lib/sysusers.d" deploy/sysusers.d/*
install -m 644 -D -t "$root/usr/lib/tmpfiles.d" deploy/tmpfiles.d/*
install -m 755 tests/systemd/inside.sh "$root/inside.sh"
# Two small GGUF files: without anything in it, and with one key.
zeros() { head -c "$1" /dev/zero; }
{ printf 'GGUF\003'; zeros 19; } >"$root/tiny.gguf"
{ printf 'GGUF\003'; zeros 11; printf '\001'; zeros 7; printf '\001'; zeros 7; printf 'a'; zeros 4; printf '\001'; } >"$root/other.gguf"
cat >"$root/usr/lib/systemd/system/securereg-inside.target" <<'U'
[Unit]
Requires=basic.target
After=basic.target
Wants=securereg-inside.service
U
cat >"$root/usr/lib/systemd/system/securereg-inside.service" <<'U'
[Unit]
After=basic.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/inside.sh
StandardOutput=file:/inside.log
StandardError=inherit
TimeoutStartSec=240
U
# nspawn's own list of system calls lacks Landlock's, and its /sys is read-only.
SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes timeout -k 10 300 systemd-nspawn --register=no --keep-unit -M "$name" -D "$root" \
  --bind=/dev/fuse --property=DeviceAllow="/dev/fuse rw" \
  --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
  -b systemd.unit=securereg-inside.target </dev/null >"$scratch/boot.log" 2>&1 || true
[ -f "$root/inside.log" ] || { tail -n 40 "$scratch/boot.log"; fail "the container did not start"; }
cat "$root/inside.log"
inside=$(grep -c '^ok: ' "$root/inside.log" || true)
grep -q '^all of it passed$' "$root/inside.log" || fail "inside the container"
checks=$((checks + inside))
[ "$checks" -ge 19 ] || fail "only $checks checks"
echo "$checks checks passed"
