//! Getting a `/dev/fuse` descriptor mounted, and unmounted.
//!
//! Owns: mount(2) as root, fusermount3 as a plain user. Promises: mounts are ro, nodev, nosuid, noexec, with the
//! permissions checked by the kernel; whatever stands in the way is named with its remedy; unmounting is lazy, since a client's
//! mapping would keep the mount. Leaves out: whether a mount may be made or ended (`mount`).

use super::{MountError, MountErrorKind};
use crate::allow::Allow;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the mount is called in `/proc/self/mountinfo`.
pub(crate) const FSTYPE: &str = "fuse.securereg";
const DEVICE: &str = "/dev/fuse";
const FUSERMOUNT: &str = "fusermount3";

/// Mounts at `dir`, which exists, and returns the descriptor that speaks for it.
pub(crate) fn mount(dir: &Path, allow: Allow) -> Result<OwnedFd, MountError> {
    if is_privileged() { mount_as_root(dir, allow) } else { mount_as_user(dir, allow) }
}

/// Whether the kernel lets us: root is asked in any case, for the message; a service's user may have been given the capability.
fn is_privileged() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    rustix::process::geteuid().is_root()
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Detaches what is mounted at `dir`. The caller has checked that it is ours.
pub(crate) fn unmount(dir: &Path) -> io::Result<()> {
    if is_privileged() {
        return Ok(rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?);
    }
    let output = fusermount().args(["-u", "-z", "-q", "--"]).arg(dir).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{FUSERMOUNT}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn mount_as_root(dir: &Path, allow: Allow) -> Result<OwnedFd, MountError> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|e| device_error(&e))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if allow != Allow::Owner {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).expect("digits and words hold no NUL");
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NOATIME;
    match rustix::mount::mount("securereg", dir, FSTYPE, flags, data.as_c_str()) {
        Ok(()) => Ok(device.into()),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => Err(MountError::new(
            MountErrorKind::Permission,
            format!(
                "mounting at {} is not permitted: root lacks CAP_SYS_ADMIN here (in a container: --cap-add SYS_ADMIN \
                 --device {DEVICE}, and no AppArmor profile that denies mount)",
                dir.display()
            ),
        )),
        Err(rustix::io::Errno::NODEV) => Err(MountError::new(
            MountErrorKind::NoFuse,
            "this kernel has no FUSE; load it with `modprobe fuse`".to_owned(),
        )),
        Err(e) => Err(MountError::new(MountErrorKind::Failed, format!("mounting at {} failed: {e}", dir.display()))),
    }
}

/// The helper, which has no business with the service manager: who has its socket could say that we are ready, or alive.
fn fusermount() -> Command {
    let mut command = Command::new(FUSERMOUNT);
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    command
}

/// fusermount3 opens the device, mounts, and passes the descriptor back over a socket whose number it is told in
/// `_FUSE_COMMFD`. The socket is its standard input, since that needs no descriptor to be inherited by number.
fn mount_as_user(dir: &Path, allow: Allow) -> Result<OwnedFd, MountError> {
    let failed = |what: &str, e: io::Error| MountError::new(MountErrorKind::Failed, format!("{what}: {e}"));
    if let Err(e) = std::fs::metadata(DEVICE) {
        return Err(device_error(&e));
    }
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| failed("making a socket pair", e.into()))?;
    let mut options =
        "ro,nodev,nosuid,noexec,noatime,default_permissions,fsname=securereg,subtype=securereg".to_owned();
    if allow != Allow::Owner {
        options.push_str(",allow_other");
    }
    let spawned = fusermount()
        .args(["-o", &options, "--"])
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::new(
                MountErrorKind::NoFusermount,
                format!(
                    "{FUSERMOUNT} is not installed, and only root mounts without it: `apt-get install fuse3` (or your \
                     distribution's fuse3), or mount as root"
                ),
            ));
        }
        Err(e) => return Err(failed("starting fusermount3", e)),
    };
    // End of file when it exits without sending: its end was closed here with the Command.
    let received = receive(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    let status = child.wait().map_err(|e| failed("waiting for fusermount3", e))?;
    match received {
        Ok(Some(fd)) if status.success() => Ok(fd),
        Ok(_) => Err(fusermount_error(dir, said.trim())),
        Err(e) => Err(failed("receiving the descriptor from fusermount3", e)),
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let mut iov = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket.as_fd(), &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

fn device_error(e: &io::Error) -> MountError {
    match e.kind() {
        io::ErrorKind::NotFound => MountError::new(
            MountErrorKind::NoFuse,
            format!("there is no {DEVICE}: load FUSE with `modprobe fuse` (in a container: --device {DEVICE})"),
        ),
        io::ErrorKind::PermissionDenied => MountError::new(
            MountErrorKind::Permission,
            format!("{DEVICE} may not be opened: as root, `chmod 666 {DEVICE}` (in a container: --device {DEVICE})"),
        ),
        _ => MountError::new(
            MountErrorKind::NoFuse,
            format!("{DEVICE} cannot be opened: {e}; `modprobe fuse` loads FUSE"),
        ),
    }
}

/// What fusermount3 said, as what to do about it.
fn fusermount_error(dir: &Path, said: &str) -> MountError {
    let (kind, remedy) = if said.contains("user_allow_other") {
        (
            MountErrorKind::Permission,
            "letting others read a plain user's mount needs the line `user_allow_other` in /etc/fuse.conf; or use \
             --allow owner",
        )
    } else if said.contains(DEVICE) && said.contains("ermission") {
        (MountErrorKind::Permission, "as root, `chmod 666 /dev/fuse`")
    } else if said.contains(DEVICE) || said.contains("modprobe") {
        (MountErrorKind::NoFuse, "load FUSE with `modprobe fuse` (in a container: --device /dev/fuse)")
    } else if said.contains("peration not permitted") {
        (
            MountErrorKind::Permission,
            "fusermount3 must be setuid root (`chmod u+s`), and in a container SYS_ADMIN must be allowed",
        )
    } else if said.contains("ermission denied") || said.contains("no write access") {
        (MountErrorKind::Permission, "a plain user may mount only on a folder of their own that they can write to")
    } else {
        (MountErrorKind::Failed, "see fusermount3(1)")
    };
    let said = if said.is_empty() { "fusermount3 ended without saying why" } else { said };
    MountError::new(kind, format!("mounting at {} failed: {said}: {remedy}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_does_not_get_the_service_managers_socket() {
        let command = fusermount();
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert_eq!(removed, ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"]);
    }
}
