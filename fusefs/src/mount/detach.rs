//! Unmounting by another process.
//!
//! Owns: the process that keeps the right to unmount while the daemon gives it up, and the few bytes the two exchange. Promises: it
//! unmounts only when told, and only the mount that it was started for; it has nothing of the daemon's environment and descriptors but
//! the socket. When the daemon dies untold it ends, and leaves the mount dead (ENOTCONN), for the next start to detach: an empty
//! folder would look like a registry without models. Leaves out: starting the right program, and what that gives up itself (the command).
//!
//! A thread would not do: it would share its memory with whatever broke into the daemon; and Landlock forbids every change of mounts,
//! in a daemon that has the capability too.

use super::{MountError, MountErrorKind, is_ours, kernel};
use parking_lot::Mutex;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long it may take to start, and to unmount, which does not wait for readers.
const PATIENCE: Duration = Duration::from_secs(20);
const READY: &[u8; 1] = b"r";
const DETACH: &[u8; 1] = b"d";

/// The other process, seen from the daemon.
#[derive(Debug)]
pub(super) struct Detacher(Mutex<(UnixStream, Child)>);

impl Detacher {
    /// Starts `program` with the mount point, the device and whether the folder is to be removed as further arguments, and waits until it
    /// is ready.
    pub(super) fn start(
        mut program: Command,
        mountpoint: &Path,
        device: &str,
        created: bool,
    ) -> Result<Detacher, MountError> {
        let failed = |e: io::Error| {
            MountError::new(MountErrorKind::Failed, format!("starting the process that will unmount: {e}"))
        };
        let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        program.arg(mountpoint).arg(device).arg(if created { "remove" } else { "leave" });
        program.env_clear().stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        // What a plain user unmounts with is looked up there.
        if let Some(path) = std::env::var_os("PATH") {
            program.env("PATH", path);
        }
        let mut child = program.spawn().map_err(failed)?;
        // Its end of the socket is closed here with the Command, so that its death is the end of the file.
        drop(program);
        let mut said = [0];
        if let Err(e) = ours.read_exact(&mut said) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(e));
        }
        Ok(Detacher(Mutex::new((ours, child))))
    }

    /// Has it unmount, and waits for its end.
    pub(super) fn detach(&self) -> io::Result<()> {
        let mut both = self.0.lock();
        let (socket, child) = &mut *both;
        let gone = |e: io::Error| io::Error::new(e.kind(), format!("the process that unmounts does not answer: {e}"));
        socket.write_all(DETACH).map_err(gone)?;
        let mut code = [0; 4];
        socket.read_exact(&mut code).map_err(gone)?;
        let _ = child.wait();
        match i32::from_ne_bytes(code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

impl Drop for Detacher {
    /// The end of the socket ends it, told or not.
    fn drop(&mut self) {
        let (socket, child) = self.0.get_mut();
        let _ = socket.shutdown(std::net::Shutdown::Both);
        let _ = child.wait();
    }
}

/// What the other process does: says on standard input, which is the socket, that it is ready, waits to be told, and unmounts
/// `mountpoint` if what is mounted there is `device` still; then removes the folder if it was made for the mount.
///
/// # Errors
/// When standard input is no such socket. What unmounting fails with is the daemon's to say.
pub fn detach_when_told(socket: OwnedFd, mountpoint: &Path, device: &str, remove: bool) -> io::Result<()> {
    let mut socket = UnixStream::from(socket);
    socket.write_all(READY)?;
    let mut told = [0];
    if socket.read(&mut told)? == 0 || told != *DETACH {
        return Ok(());
    }
    let outcome = match is_ours(mountpoint, device) {
        // The daemon has asked before; whoever unmounted meanwhile has done it.
        Ok(false) => Ok(()),
        Ok(true) => kernel::unmount(mountpoint),
        Err(e) => Err(e),
    };
    let code = match outcome {
        Ok(()) => 0,
        Err(e) => {
            tracing::error!("unmounting {}: {e}", mountpoint.display());
            e.raw_os_error().unwrap_or(libc::EIO)
        }
    };
    if code == 0 && remove {
        // Only if it is empty: anything else is not ours to remove.
        let _ = std::fs::remove_dir(mountpoint);
    }
    socket.write_all(&code.to_ne_bytes())
}
