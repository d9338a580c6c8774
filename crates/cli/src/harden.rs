//! What the daemons give up.
//!
//! Owns: which files, ports and capabilities each of them still needs, and the process that unmounts for one. Promises: `mount` keeps
//! nothing but the registry's folder; `serve` and `up` add their staging folders, the files of their secrets and the ports they listen on
//! and connect to; root keeps, for promotions, what lets it take files of other users. Leaves out: how it is given up
//! (`securereg_sandbox`), and when (`daemon`).

use crate::args::Detach;
use crate::exit::Code;
use crate::verbs::Context;
use nix::sys::signal::{SigSet, Signal};
use securereg::{Error, ErrorKind, Registry, Result};
use securereg_sandbox::{Capability, Needs, Network};
use securereg_server::{Config, Reach, ServerError};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// Before anything is read that others must not see.
pub(crate) fn begin() -> Result<()> {
    let refused =
        |what: &'static str| move |e: std::io::Error| Error::new(ErrorKind::Io, format!("{what}: {e}")).because(e);
    securereg_sandbox::begin().map_err(refused("cannot close this process to others"))?;
    // Needed only where programs are started: fusermount3 and our own that unmounts.
    if let Err(e) = securereg::close_all_on_exec() {
        tracing::warn!("descriptors that this process was started with are passed on: {e}");
    }
    Ok(())
}

/// How a daemon serves HTTP.
#[derive(Clone, Copy)]
pub(crate) struct Http<'a> {
    pub(crate) config: &'a Config,
    /// Whether it makes its own socket.
    pub(crate) binds: bool,
}

/// What a daemon needs that shows or serves `registry`.
pub(crate) fn needs(
    registry: &Registry,
    immutable: bool,
    http: Option<Http<'_>>,
) -> std::result::Result<Needs, ServerError> {
    let root = registry.root().to_owned();
    let mut needs = Needs { writable: vec![root.clone()], ..Needs::default() };
    let is_root = nix::unistd::geteuid().is_root();
    if immutable {
        needs.capabilities.push(Capability::LinuxImmutable);
    }
    // Another user's registry is root's to serve all the same.
    if is_root && std::fs::metadata(&root).is_ok_and(|folder| folder.uid() != 0) {
        needs.capabilities.extend([Capability::DacOverride, Capability::Fowner, Capability::Chown]);
    }
    let Some(Http { config, binds }) = http else { return Ok(needs) };
    needs.writable.extend(config.staging_folders(registry)?.into_iter().filter(|folder| !folder.starts_with(&root)));
    needs.readable = config.secret_files();
    let listens = config.listen.port();
    needs.network = match config.reach() {
        Reach::Nowhere if binds => Network::Listens(listens),
        Reach::Nowhere => Network::None,
        Reach::Ports(ports) => Network::Connects { listens, ports: Some(ports) },
        Reach::Anywhere => Network::Connects { listens, ports: None },
    };
    if matches!(needs.network, Network::Connects { .. }) {
        needs.readable.extend(certificates());
    }
    if is_root {
        // To read, lease and take over what other users put into a staging folder; to replace what was made immutable.
        let promoting = [
            Capability::Chown,
            Capability::DacOverride,
            Capability::Fowner,
            Capability::Lease,
            Capability::LinuxImmutable,
        ];
        needs.capabilities.extend(promoting);
    }
    if binds && (1..1024).contains(&listens) {
        needs.capabilities.push(Capability::NetBindService);
    }
    Ok(needs)
}

/// Where the environment says that certificates and AWS's keys are.
fn certificates() -> impl Iterator<Item = std::path::PathBuf> {
    let named =
        ["SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
    // Tokens are replaced, by a file of the same name: their folder is granted, not the file.
    named.into_iter().filter_map(std::env::var_os).map(std::path::PathBuf::from).map(|path| {
        let folder = path.parent().filter(|_| !path.is_dir());
        folder.map_or(path.clone(), Path::to_owned)
    })
}

/// Our own program, as the one that unmounts.
pub(crate) fn detacher() -> Result<Command> {
    let own = std::env::current_exe()
        .map_err(|e| Error::new(ErrorKind::Io, format!("cannot find this program's file: {e}")).because(e))?;
    let mut program = Command::new(own);
    program.arg("detach");
    Ok(program)
}

/// `detach`: waits until the daemon says so, and unmounts.
pub(crate) fn detach(_: &mut Context, args: &Detach) -> Result<Code> {
    // Ctrl-C and the service manager's stop reach every process of the group: this one ends when the daemon does.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|e| Error::new(ErrorKind::Io, format!("cannot block signals: {e}")))?;
    begin()?;
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, format!("unmounting: {e}")).because(e);
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let remove = args.folder == "remove";
    // A plain user unmounts with fusermount3, which is a program of root's: nothing can be given up there.
    if securereg_sandbox::holds(Capability::SysAdmin) {
        let mut kept = vec![Capability::SysAdmin];
        if remove {
            // The folder it lies in may be anybody's.
            kept.push(Capability::DacOverride);
        }
        if let Err(why) = securereg_sandbox::confine_detacher(&kept) {
            tracing::warn!("the process that unmounts is not confined: {why}");
        }
    }
    securereg_fusefs::detach_when_told(socket, &args.mountpoint, &args.device, remove).map_err(failed)?;
    Ok(Code::Done)
}
