#!/usr/bin/env bash
# Run by tests/systemd/run.sh inside the container, by its systemd.
set -uo pipefail

ok() { echo "ok: $1"; }
fail() {
  echo "FAILED: $1"
  journalctl --no-pager -o short-monotonic -n 60 -u 'secure-ai-registry*'
  exit 1
}
until_so() { for _ in $(seq 150); do if "$@"; then return 0; fi; sleep 0.1; done; return 1; }
main_pid() { systemctl show -P MainPID "$1"; }
# Every thread of a process: what it has in this field of its status.
field() { sed -n "s/^$2:[[:space:]]*//p" /proc/"$1"/task/*/status | sort -u | tr '\n' ' '; }

state=/var/lib/secure-ai
registry="$state/registry" models="$state/models"

# Before the first start: systemd-sysusers and systemd-tmpfiles ran at boot.
id secure-ai-registry >/dev/null || fail "sysusers made no user"
[ "$(stat -c '%U:%G %a' $registry)" = "secure-ai-registry:secure-ai-registry 700" ] || fail "the root: $(stat -c '%U:%G %a' $registry)"
[ "$(stat -c '%U:%G %a' $models)" = "root:root 755" ] || fail "the mount point"
[ "$(stat -c '%U:%G %a' $state/quarantine)" = "secure-ai-registry:secure-ai-promoters 3770" ] || fail "the staging folder"
id -nG secure-ai-registry | grep -qw secure-ai-promoters || fail "the service is not in the group of the promoters"
ok "sysusers and tmpfiles made the user and the folders"
verified=$(systemd-analyze verify --man=no /usr/lib/systemd/system/secure-ai-registry* 2>&1 | grep secure-ai-registry)
[ -z "$verified" ] || { echo "$verified"; fail "systemd-analyze verify"; }
ok "systemd-analyze verify finds nothing"

systemctl start secure-ai-registry.service || fail "the registry does not start"
pid=$(main_pid secure-ai-registry)
[ "$(systemctl show -P SubState secure-ai-registry)" = running ] || fail "the registry does not run"
[ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8470/health)" = 200 ] || fail "no answer through the socket"
ok "the registry runs, has said so, and answers on the socket that systemd listens on"
[ "$(field "$pid" Uid)" = "$(id -u secure-ai-registry | awk '{ print $1 "\t" $1 "\t" $1 "\t" $1 }') " ] || fail "another user: $(field "$pid" Uid)"
[ "$(field "$pid" CapPrm)$(field "$pid" CapBnd)" = "0000000000000000 0000000000000000 " ] || fail "capabilities: $(field "$pid" CapPrm)"
[ "$(field "$pid" Seccomp)$(field "$pid" NoNewPrivs)" = "2 1 " ] || fail "seccomp"
[ "$(readlink /proc/"$pid"/ns/mnt)" != "$(readlink /proc/1/ns/mnt)" ] || fail "it has this machine's mounts"
[ "$(readlink /proc/"$pid"/ns/net)" != "$(readlink /proc/1/ns/net)" ] || fail "it has this machine's network"
nsenter -t "$pid" -m touch /usr/written 2>/dev/null && fail "/usr can be written"
nsenter -t "$pid" -m touch $state/written || fail "$state cannot be written"
ok "it has no capability, no network, and writes below $state only"
journalctl -o cat --no-pager -u secure-ai-registry | grep -q 'confined.*landlock: Some' || fail "no Landlock"
ok "it has confined itself as well, with Landlock"

systemctl start secure-ai-registry-mount.service || fail "the mount does not start"
pid=$(main_pid secure-ai-registry-mount)
grep -q " $models .*fuse.securereg" /proc/1/mountinfo || fail "the mount is not seen by the rest of the machine"
grep " $models " /proc/1/mountinfo | grep -q ' ro,nosuid,nodev,noexec' || fail "t14: it is not ro,nosuid,nodev,noexec"
ok "the mount is there for every process, and read-only"
[ "$(field "$pid" CapPrm)$(field "$pid" CapEff)$(field "$pid" CapAmb)" = "$(printf '0000000000000000 %.0s' 1 2 3)" ] || fail "capabilities: $(field "$pid" CapPrm)"
[ "$(field "$pid" Seccomp)$(field "$pid" NoNewPrivs)" = "2 1 " ] || fail "seccomp"
journalctl -o cat --no-pager -u secure-ai-registry-mount | grep -q 'confined.*landlock: Some' || fail "no Landlock"
helper=$(pgrep -P "$pid")
[ "$(field "$helper" CapPrm)" = "0000000000200000 " ] || fail "the process that unmounts has $(field "$helper" CapPrm)"
[ "$(tr '\0' '\n' </proc/"$helper"/environ | grep -vc '^PATH=')" = 0 ] || fail "the process that unmounts has an environment"
ok "every thread of it has no capability left; CAP_SYS_ADMIN stays with the process that unmounts"
device=$(awk -v dir="$models" '$5 == dir { print $3 }' /proc/1/mountinfo)
[ "$(cat /sys/class/bdi/"$device"/read_ahead_kb)" = 4096 ] || fail "read-ahead is $(cat /sys/class/bdi/"$device"/read_ahead_kb)"
ok "read-ahead is as deep as for root"

# A promoter puts a candidate into the staging folder and has it taken over HTTP.
useradd --system -G secure-ai-promoters promoter
setpriv --reuid promoter --regid promoter --init-groups sh -c "umask 027; cp /tiny.gguf /other.gguf $state/quarantine/" || fail "a promoter cannot write"
promote() {
  curl -s -o /promoted -w '%{http_code}' -H "Authorization: Bearer $(cat $registry/tokens/promote.token)" -H 'Content-Type: application/json' \
    -d "{\"name\":\"$1\",\"path\":\"$state/quarantine/$2\",\"sha256\":\"$(sha256sum "/$2" | cut -d' ' -f1)\"}" http://127.0.0.1:8470/v1/promote
}
[[ "$(promote tiny tiny.gguf)" == 20? ]] || { cat /promoted; fail "the promotion"; }
until_so test -e $models/tiny.gguf || fail "the mount does not follow"
[ "$(setpriv --reuid nobody --regid nogroup --clear-groups sha256sum <$models/tiny.gguf)" = "$(sha256sum </tiny.gguf)" ] || fail "other bytes"
setpriv --reuid nobody --regid nogroup --clear-groups ls $registry 2>/dev/null && fail "t16: another user walks around the mount"
ok "what a promoter staged is promoted over HTTP, and any user reads it through the mount and no other way"

# The token files are the service's own; nothing shows them. (grep reads them itself: its arguments are among those looked at.)
for token in "$registry"/tokens/*.token; do
  cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -aqFf "$token" && fail "a token is in an argument or a variable"
done
setpriv --reuid secure-ai-registry --regid secure-ai-registry --clear-groups cat /proc/"$pid"/environ >/dev/null 2>&1 && fail "t24: the user's other processes look into it"
setpriv --reuid secure-ai-registry --regid secure-ai-registry --clear-groups cat /proc/"$helper"/environ >/dev/null 2>&1 && fail "t24: or into its helper"
ok "no secret in an argument or a variable, and no process of the same user looks into the daemons"

# Killed: dead, not empty or stale; started again by systemd, which detaches the dead mount.
kill -KILL "$pid"
until_so sh -c "[ \"\$(systemctl show -P MainPID secure-ai-registry-mount)\" -gt 0 ] && [ \"\$(systemctl show -P MainPID secure-ai-registry-mount)\" != $pid ] && cmp -s $models/tiny.gguf /tiny.gguf" ||
  fail "t15: it is not mounted again"
until_so sh -c '[ "$(systemctl show -P SubState secure-ai-registry-mount)" = running ]' || fail "t15: it does not say that it is ready"
[ "$(grep -c " $models " /proc/1/mountinfo)" = 1 ] || fail "t15: a dead mount was left below"
ok "killed, it is mounted again, once"

# Verification: the timer's service, on good models and on a damaged one.
systemctl start secure-ai-registry-verify.service || fail "the verification of good models fails"
systemctl start secure-ai-registry-verify.timer || fail "the timer"
[ "$(systemctl show -P ActiveState secure-ai-registry-verify.timer)" = active ] || fail "the timer"
[[ "$(promote other other.gguf)" == 20? ]] || { cat /promoted; fail "the promotion"; }
blob=$registry/blobs/sha256/$(sha256sum </other.gguf | cut -d' ' -f1)
chmod u+w "$blob" && printf x | dd of="$blob" bs=1 seek=8 conv=notrunc status=none && touch -d '2020-01-01' "$blob"
systemctl start secure-ai-registry-verify.service && fail "the verification of a damaged model succeeds"
cat $models/other.gguf >/dev/null 2>&1 && fail "a damaged model is served"
cmp -s $models/tiny.gguf /tiny.gguf || fail "t15: one bad model stops the others"
[ "$(stat -c %U $registry/manifest.yaml)" = secure-ai-registry ] || fail "the manifest has changed hands"
ok "the verification passes what is good, fails and quarantines what is not, and the rest is served"

# Stopped: unmounted.
systemctl stop secure-ai-registry-mount.service
[ "$(systemctl show -P Result secure-ai-registry-mount)" = success ] || fail "the mount did not end well"
grep " $models " /proc/1/mountinfo && fail "it is still mounted"
[ "$(ls -A $models)" = "" ] && [ "$(stat -c %U $models)" = root ] || fail "the mount point is not as it was"
ok "stopped, it is unmounted"

# Tokens of a deployment's own, which systemd reads and passes on.
systemctl stop secure-ai-registry.service secure-ai-registry.socket
[ "$(systemctl show -P Result secure-ai-registry)" = success ] || fail "the registry did not end well"
install -d -m 700 /etc/secure-ai
(umask 077; echo 0123456789abcdef0123456789abcdef >/etc/secure-ai/read)
mkdir -p /run/systemd/system/secure-ai-registry.service.d
printf '[Service]\nLoadCredential=read:/etc/secure-ai/read\nEnvironment=REGISTRY_READ_TOKEN_PATH=%%d/read\n' >/run/systemd/system/secure-ai-registry.service.d/tokens.conf
systemctl daemon-reload
systemctl start secure-ai-registry.service || fail "it does not start with tokens of a deployment's own"
list() { curl -s -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $1" http://127.0.0.1:8470/v1/models; }
[ "$(list 0123456789abcdef0123456789abcdef)" = 200 ] || fail "the token is not taken"
[[ "$(list 0123456789abcdef0123456789abcdeX)" = 40[13] ]] || fail "another is"
cat /proc/"$(main_pid secure-ai-registry)"/environ | grep -aq 0123456789abcdef && fail "the token is in the environment"
systemctl stop secure-ai-registry.service
ok "a token passed with LoadCredential is taken, and stands in no variable"
echo "all of it passed"
