//! Who may read the mount.
//!
//! Owns: [`Allow`] and the owner and mode of everything shown. Promises: nobody may write, and only whom it names may
//! read; the kernel checks it (`default_permissions`). Leaves out: quarantine, which no permission lifts.

use crate::mount::{MountError, MountErrorKind};
use std::str::FromStr;

/// Who may read the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// The user who mounts: files 0400, folders 0500.
    Owner,
    /// The user who mounts, and this group (its id): files 0440, folders 0550.
    Group(u32),
    /// Everyone: files 0444, folders 0555.
    All,
}

impl Allow {
    /// All for root, so that an inference worker can read; the owner for a plain user.
    pub fn for_this_user() -> Allow {
        if rustix::process::geteuid().is_root() { Allow::All } else { Allow::Owner }
    }
}

/// `owner`, `all`, or `group:NAME` with a name or a number.
impl FromStr for Allow {
    type Err = MountError;
    fn from_str(s: &str) -> Result<Self, MountError> {
        let refuse = |why: String| MountError::new(MountErrorKind::InvalidOption, why);
        match s {
            "owner" => Ok(Allow::Owner),
            "all" => Ok(Allow::All),
            _ => {
                let group = s
                    .strip_prefix("group:")
                    .filter(|g| !g.is_empty())
                    .ok_or_else(|| refuse("who may read the mount is owner, group:NAME or all".to_owned()))?;
                if let Ok(gid) = group.parse() {
                    return Ok(Allow::Group(gid));
                }
                match nix::unistd::Group::from_name(group) {
                    Ok(Some(group)) => Ok(Allow::Group(group.gid.as_raw())),
                    Ok(None) => Err(refuse(format!("there is no group {group:?}; see `getent group`"))),
                    Err(e) => Err(refuse(format!("group {group:?} cannot be looked up: {e}"))),
                }
            }
        }
    }
}

/// Owner and modes, derived from an [`Allow`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Modes {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) file: u16,
    pub(crate) dir: u16,
}

impl Modes {
    pub(crate) fn of(allow: Allow) -> Modes {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        match allow {
            Allow::Owner => Modes { uid, gid, file: 0o400, dir: 0o500 },
            Allow::Group(gid) => Modes { uid, gid, file: 0o440, dir: 0o550 },
            Allow::All => Modes { uid, gid, file: 0o444, dir: 0o555 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t16_who_may_read_is_parsed_strictly() {
        assert_eq!("owner".parse::<Allow>().expect("a word"), Allow::Owner);
        assert_eq!("all".parse::<Allow>().expect("a word"), Allow::All);
        assert_eq!("group:7".parse::<Allow>().expect("a number"), Allow::Group(7));
        assert_eq!("group:root".parse::<Allow>().expect("a name"), Allow::Group(0));
        for bad in ["", "everyone", "group", "group:", "group:no-such-group-here", "Owner", "group:-1"] {
            assert_eq!(bad.parse::<Allow>().expect_err(bad).kind(), MountErrorKind::InvalidOption);
        }
    }

    #[test]
    fn t16_no_mode_lets_anyone_write() {
        for allow in [Allow::Owner, Allow::Group(0), Allow::All] {
            let modes = Modes::of(allow);
            assert_eq!((modes.file & 0o333, modes.dir & 0o222), (0, 0), "{allow:?}");
        }
    }
}
