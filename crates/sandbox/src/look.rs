//! How a process stands, seen from outside.
//!
//! Owns: reading /proc/PID/status, which anyone may read. Promises: what is said is what the kernel says, of the thread that has the
//! most. Leaves out: Landlock, which the kernel shows nowhere.

use crate::rights;
use serde::Serialize;

/// What the kernel says of a process: of all its threads together, the least that holds for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Look {
    /// Whether system calls are filtered in every thread.
    pub seccomp: bool,
    /// Whether no thread can gain rights.
    pub no_new_privileges: bool,
    /// The capabilities that any thread has.
    pub capabilities: Vec<String>,
}

impl Look {
    /// Of the process `pid`; nothing if it is not there or not shown to us.
    pub fn at(pid: u32) -> Option<Look> {
        let (mut look, mut mask, mut threads) =
            (Look { seccomp: true, no_new_privileges: true, ..Look::default() }, 0, 0);
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            // It may have ended meanwhile.
            let Ok(status) = std::fs::read_to_string(thread.path().join("status")) else { continue };
            let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map_or("", str::trim);
            look.seccomp &= field("Seccomp:") == "2";
            look.no_new_privileges &= field("NoNewPrivs:") == "1";
            mask |= u64::from_str_radix(field("CapPrm:"), 16).unwrap_or(u64::MAX);
            threads += 1;
        }
        look.capabilities = rights::names(mask);
        (threads > 0).then_some(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_not_confined_is_not_said_to_be() {
        let look = Look::at(std::process::id()).expect("we are there");
        assert!(!look.seccomp, "{look:?}");
        assert_eq!(Look::at(u32::MAX), None);
    }
}
