//! Keeping stored files immutable while a mount asks for it.
//!
//! Owns: the thread that sets the flag on what is promoted while the mount runs. Promises: what was promoted before the mount
//! has the flag when the mount answers, or the mount is refused; what is promoted later gets it as soon as the catalog shows
//! it. Leaves out: the flag (the core), and following the catalog for readers (`revoke`), which never waits for this.

use rustix::event::{PollFd, PollFlags, poll};
use securereg::{Registry, Watch};
use std::io;
use std::os::fd::OwnedFd;
use std::thread::Builder;

/// Sets the flag on everything now, and starts the thread. It ends when `stop` becomes readable.
pub(crate) fn start(registry: &Registry, watch: Watch, stop: OwnedFd) -> Result<(), Failure> {
    registry.make_immutable().map_err(Failure::Registry)?;
    let registry = registry.clone();
    let run = move || follow(&registry, watch, &stop);
    Builder::new().name("securereg-immutable".into()).spawn(run).map(drop).map_err(Failure::Thread)
}

/// Why it could not be started.
pub(crate) enum Failure {
    Registry(securereg::Error),
    Thread(io::Error),
}

fn follow(registry: &Registry, mut watch: Watch, stop: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(&watch, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if let Err(e) = poll(&mut fds, None)
            && e != rustix::io::Errno::INTR
        {
            tracing::error!("cannot wait for changes of the catalog, new files are not made immutable: {e}");
            return;
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if watch.drain()
            && let Err(e) = registry.make_immutable()
        {
            tracing::error!("stored files are not all immutable: {e}");
        }
    }
}
