//! What is mounted where, as `/proc/self/mountinfo` says.
//!
//! Owns: parsing it. Promises: asks no file system anything, so a dead or hung one cannot block it. Leaves out: changing
//! it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Major and minor number, as in `/sys/class/bdi`.
    pub(crate) device: String,
    pub(crate) fstype: String,
}

/// What is mounted at `path` (absolute, without links), the topmost if several are.
pub(crate) fn at(path: &Path) -> std::io::Result<Option<Entry>> {
    Ok(find(&std::fs::read("/proc/self/mountinfo")?, path))
}

fn find(table: &[u8], path: &Path) -> Option<Entry> {
    // Later lines lie over earlier ones.
    table.split(|b| *b == b'\n').filter_map(parse).rfind(|(mountpoint, _)| mountpoint == path).map(|(_, e)| e)
}

/// `36 35 98:0 /root /mnt options shared:1 - ext4 /dev/root rw`
fn parse(line: &[u8]) -> Option<(PathBuf, Entry)> {
    let mut fields = line.split(|b| *b == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    let fstype = fields.skip_while(|f| *f != b"-").nth(1)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((unescape(mountpoint), Entry { device: text(device), fstype: text(fstype) }))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Whether `path` can be told apart in the table at all (it holds no NUL).
pub(crate) fn can_hold(path: &Path) -> bool {
    !path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_at_a_path_is_found_whatever_its_name() {
        let table = b"22 1 8:1 / / rw shared:1 - ext4 /dev/vda rw\n\
            90 22 0:44 / /mnt/a\\040b ro,nosuid shared:2 master:1 - fuse.securereg securereg ro,user_id=0\n\
            91 90 0:45 / /mnt/a\\040b rw - tmpfs tmpfs rw\n\
            92 22 0:46 / /mnt/x\\134y rw - proc - rw\nshort line\n\n";
        let entry = |device: &str, fstype: &str| Some(Entry { device: device.into(), fstype: fstype.into() });
        assert_eq!(find(table, Path::new("/")), entry("8:1", "ext4"));
        assert_eq!(find(table, Path::new("/mnt/a b")), entry("0:45", "tmpfs"));
        assert_eq!(find(table, Path::new("/mnt/x\\y")), entry("0:46", "proc"));
        assert_eq!(find(table, Path::new("/mnt")), None);
        assert!(at(Path::new("/")).expect("proc is mounted").is_some());
    }
}
