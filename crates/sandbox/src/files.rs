//! Files, ports and signals: Landlock.
//!
//! Owns: which rights a folder is given. Promises: nothing is executed; devices, sockets and links are made nowhere; what is written lies
//! below a writable folder; signals go to this process only. Leaves out: metadata, which Landlock does not bind (stat, chmod), and
//! everything below the kernel's ABI 6 that is newer.
//!
//! A rule is about an inode, not a name: a folder that is removed and made again is another one, and closed until the next start.

use crate::{Needs, Network};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use std::path::Path;

/// The newest ABI whose rights are meant here: of a newer kernel no more is asked.
const KNOWN: ABI = ABI::V6;

/// What the C library and the core look up: processes, memory, control groups, processors.
const KERNEL: [&str; 3] = ["/proc", "/sys/fs/cgroup", "/sys/devices/system"];

/// What looking up names and checking certificates reads.
const NAMES: [&str; 7] =
    ["/etc", "/usr", "/lib", "/lib64", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"];

/// Restricts this thread and those it starts; the version in force.
pub(crate) fn restrict(needs: &Needs) -> Result<u8, String> {
    let ruleset = build(needs).map_err(|e| e.to_string())?;
    let status = ruleset.restrict_self().map_err(|e| e.to_string())?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Ok((effective_abi as u8).min(KNOWN as u8)),
        LandlockStatus::NotEnabled => {
            Err("it is not among the kernel's security modules (lsm=landlock,... at boot)".into())
        }
        LandlockStatus::NotImplemented => Err("this kernel has none, or a filter hides it".into()),
    }
}

fn build(needs: &Needs) -> Result<RulesetCreated, RulesetError> {
    // A device that is opened later is no business of any daemon's: its ioctls stay refused below every folder.
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(scopes())?;
    if handled_ports(&needs.network) != BitFlags::EMPTY {
        ruleset = ruleset.handle_access(handled_ports(&needs.network))?;
    }
    let mut ruleset = ruleset.create()?;
    for folder in &needs.writable {
        ruleset = grant(ruleset, folder, write)?;
    }
    for path in &needs.readable {
        ruleset = grant(ruleset, path, read)?;
    }
    for path in KERNEL {
        ruleset = grant_if_there(ruleset, Path::new(path), read)?;
    }
    for folder in &needs.removable {
        ruleset = grant(ruleset, folder, AccessFs::RemoveDir.into())?;
    }
    // The tracing of a library, and whoever is given a closed standard stream.
    ruleset = grant_if_there(ruleset, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    match &needs.network {
        Network::None => {}
        Network::Listens(port) => ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?,
        Network::Connects { listens, ports } => {
            ruleset = ruleset.add_rule(NetPort::new(*listens, AccessNet::BindTcp))?;
            for port in ports.iter().flatten() {
                ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
            }
            for path in NAMES {
                ruleset = grant_if_there(ruleset, Path::new(path), read)?;
            }
        }
    }
    Ok(ruleset)
}

/// The service manager of some systems listens on an abstract socket.
fn scopes() -> BitFlags<Scope> {
    let abstract_manager =
        std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| name.as_encoded_bytes().first() == Some(&b'@'));
    if abstract_manager { Scope::Signal.into() } else { Scope::Signal | Scope::AbstractUnixSocket }
}

/// What is refused unless a port is granted.
fn handled_ports(network: &Network) -> BitFlags<AccessNet> {
    match network {
        Network::None | Network::Listens(_) | Network::Connects { ports: Some(_), .. } => {
            AccessNet::BindTcp | AccessNet::ConnectTcp
        }
        Network::Connects { ports: None, .. } => AccessNet::BindTcp.into(),
    }
}

fn grant(ruleset: RulesetCreated, path: &Path, rights: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    if !path.exists() {
        tracing::warn!("{} is not there: it stays closed to this process until the next start", path.display());
        return Ok(ruleset);
    }
    grant_if_there(ruleset, path, rights)
}

fn grant_if_there(
    ruleset: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(ruleset) };
    // Rights of folders mean nothing for a file, and are refused for one.
    let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(KNOWN) };
    ruleset.add_rule(PathBeneath::new(opened, rights))
}
