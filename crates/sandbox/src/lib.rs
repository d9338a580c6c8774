//! What a daemon gives up once it has started.
//!
//! Owns: the steps, and what is said of them. Promises: [`begin`] comes before the first secret is read: from then on nobody but root
//! looks into this process, and no program it starts inherits its descriptors. [`confine`] comes after the one system call that
//! needs privileges and before the first thread: from then on no thread has a capability that is not named, opens a file that is not
//! granted, connects or makes a system call that is not listed, or starts a program. What the kernel does not offer is a warning that
//! names it, never a failure: it is a second line of defence, and no check of a model's bytes depends on it. Leaves out: which files
//! and capabilities a daemon needs (the command).
//!
//! ```text
//! begin: not dumpable, no core, close-on-exec -> settings read -> mount(2) -> confine: capabilities -> no new privileges
//!   -> Landlock (files, TCP, signals) -> seccomp -> threads
//! ```
//! Landlock binds the thread that calls it and those it starts, so it comes before the threads; and it forbids every change of mounts,
//! so mount(2) comes before it and unmounting is another process's. seccomp comes last: applying the others needs calls it refuses.

mod calls;
mod files;
mod look;
mod rights;

pub use look::Look;
pub use rights::{Capability, holds};

use serde::Serialize;
use std::io;
use std::path::PathBuf;

/// What a daemon still needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Folders below which files are made, changed and removed.
    pub writable: Vec<PathBuf>,
    /// Files and folders that are read.
    pub readable: Vec<PathBuf>,
    /// Folders in which an empty folder is removed at the end.
    pub removable: Vec<PathBuf>,
    /// The network.
    pub network: Network,
    /// Capabilities, as far as there are any.
    pub capabilities: Vec<Capability>,
}

/// How far a daemon reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// Not at all. Unix sockets stay, for the service manager's.
    #[default]
    None,
    /// It listens on one TCP port, and connects to nothing. 0 stands for any free one.
    Listens(u16),
    /// It listens on one TCP port, and connects to others, whose names it looks up: to these ports, or to any.
    Connects {
        /// Where it listens.
        listens: u16,
        /// The ports it connects to; none means any.
        ports: Option<Vec<u16>>,
    },
}

/// What is in force after [`confine`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Confined {
    /// Whether other processes of this user may look into this one.
    pub dumpable: bool,
    /// Whether no program could give it rights.
    pub no_new_privileges: bool,
    /// The version of Landlock in force; none without it.
    pub landlock: Option<u8>,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// The capabilities it kept.
    pub capabilities: Vec<String>,
    /// What is not in force, and why.
    pub missing: Vec<String>,
}

/// Closes this process to other processes of the same user: no ptrace, no `/proc/PID/environ` or `mem`, no core file; and its
/// descriptors to the programs it starts.
///
/// # Errors
/// When the kernel refuses, which it never has a reason to.
pub fn begin() -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    nix::sys::prctl::set_dumpable(false)?;
    // Refused where a service manager has set it already; and a process that is not dumpable leaves no core in any case.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    Ok(())
}

/// Gives up everything but `needs`, in this thread and all it starts; system calls in every thread there is. Each thing that cannot be
/// given up is a warning, and is among what is [missing](Confined::missing).
pub fn confine(needs: &Needs) -> Confined {
    let mut missing = Vec::new();
    let mut tried = |what: &str, outcome: Result<(), String>| match outcome {
        Ok(()) => true,
        Err(why) => {
            tracing::warn!("{what} is not in force: {why}; everything is served and checked as before");
            missing.push(format!("{what}: {why}"));
            false
        }
    };
    tried("the dropping of capabilities", rights::keep(&needs.capabilities));
    let unprivileged = rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string());
    let no_new_privileges = tried("no new privileges", unprivileged);
    let mut landlock = None;
    tried("Landlock", files::restrict(needs).map(|version| landlock = Some(version)));
    let seccomp = tried("seccomp", calls::filter(&needs.network));
    let dumpable = nix::sys::prctl::get_dumpable().unwrap_or(true);
    let confined = Confined { dumpable, no_new_privileges, landlock, seccomp, capabilities: rights::held(), missing };
    tracing::info!(?confined, "confined");
    confined
}

/// What is left of [`confine`] for the process that unmounts, which no Landlock rule may bind: capabilities and system calls.
///
/// # Errors
/// When seccomp or the dropping of capabilities is refused; the caller says so and goes on.
pub fn confine_detacher(capabilities: &[Capability]) -> Result<(), String> {
    rights::keep(capabilities)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string())?;
    calls::filter_detacher()
}
