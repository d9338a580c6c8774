//! How much memory may still be taken.
//!
//! Owns: the answer, from the kernel's own accounts. Promises: the smallest of what the machine has free and what each
//! control group above this process leaves, with the name of what limits it; an account that cannot be read limits nothing.
//! Leaves out: what the memory is for.

use std::path::{Path, PathBuf};

/// What may still be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    /// What sets the limit, in words.
    pub(crate) by: String,
}

/// The room this process has; none when nothing says.
pub(crate) fn room() -> Option<Room> {
    room_in(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn room_in(proc: &Path, cgroup: &Path) -> Option<Room> {
    let machine = std::fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Room { bytes: kib.saturating_mul(1024), by: "the machine's free memory".into() })
    });
    let groups = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| group_rooms(line, cgroup));
    machine.into_iter().chain(limits).min_by_key(|room| room.bytes)
}

type ReadRoom = fn(&Path) -> Option<u64>;

/// The rooms that one line of /proc/self/cgroup and the groups above it leave (cgroups(7)).
fn group_rooms(line: &str, cgroup: &Path) -> Vec<Room> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let path = path.trim_start_matches('/');
    // Version 2 by itself or beside version 1; version 1's memory controller.
    let (mounts, read): (&[&str], ReadRoom) = match controllers {
        "" => (&["", "unified"], room_v2),
        _ if controllers.split(',').any(|c| c == "memory") => (&["memory"], room_v1),
        _ => return Vec::new(),
    };
    let mut rooms = Vec::new();
    for mount in mounts {
        let top = cgroup.join(mount);
        // Inside a container the path may be the host's, of which only the top is seen here.
        for folder in top.join(path).ancestors().take_while(|folder| folder.starts_with(&top)) {
            rooms.extend(
                read(folder).map(|bytes| Room { bytes, by: format!("the control group {}", folder.display()) }),
            );
        }
    }
    rooms
}

fn room_v2(folder: &Path) -> Option<u64> {
    // "max" is no limit, and no number.
    let max = [folder.join("memory.max"), folder.join("memory.high")].iter().filter_map(number).min()?;
    left(max, number(&folder.join("memory.current"))?, folder, ["inactive_file", "active_file"])
}

fn room_v1(folder: &Path) -> Option<u64> {
    let max = number(&folder.join("memory.limit_in_bytes"))?;
    left(max, number(&folder.join("memory.usage_in_bytes"))?, folder, ["total_inactive_file", "total_active_file"])
}

/// Cached pages of files count as used, and are given up when memory is asked for.
fn left(max: u64, used: u64, folder: &Path, cached: [&str; 2]) -> Option<u64> {
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let of = |key: &str| stat.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.parse::<u64>().ok());
    let cached = cached.iter().filter_map(|key| of(key)).fold(0, u64::saturating_add);
    Some(max.saturating_sub(used.saturating_sub(cached)))
}

fn number(path: &PathBuf) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn the_smallest_of_the_machine_and_each_group_above_limits() {
        let dir = tempfile::tempdir().expect("a folder");
        let (proc, cgroup) = (dir.path().join("proc"), dir.path().join("cgroup"));
        let room = || room_in(&proc, &cgroup).map(|room| (room.bytes, room.by));
        assert_eq!(room(), None, "nothing says");
        write(proc.join("meminfo"), "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n");
        let (bytes, by) = room().expect("a limit");
        assert_eq!((bytes, by.contains("machine")), (4_096_000, true));

        write(proc.join("self/cgroup"), "0::/a/b\n");
        write(cgroup.join("a/b/memory.max"), "max\n");
        write(cgroup.join("a/b/memory.current"), "10\n");
        assert_eq!(room().expect("a limit").0, 4_096_000, "no limit in that group");
        write(cgroup.join("a/memory.max"), "1000000\n");
        write(cgroup.join("a/memory.current"), "600000\n");
        assert_eq!(room().expect("a limit").0, 400_000, "the group above");
        write(cgroup.join("a/memory.stat"), "anon 5\ninactive_file 100000\nactive_file 50000\nactive_file_x 9\n");
        let (bytes, by) = room().expect("a limit");
        assert_eq!(bytes, 550_000, "cached pages can be had");
        assert!(by.ends_with("/a"), "{by}");
        write(cgroup.join("a/memory.high"), "500000\n");
        assert_eq!(room().expect("a limit").0, 50_000, "above high it is only throttled, to a crawl");
        write(cgroup.join("a/memory.current"), "9000000\n");
        assert_eq!(room().expect("a limit").0, 0, "over the limit");
    }

    #[test]
    fn version_1_and_a_path_of_the_host_are_understood() {
        let dir = tempfile::tempdir().expect("a folder");
        let (proc, cgroup) = (dir.path().join("proc"), dir.path().join("cgroup"));
        write(proc.join("self/cgroup"), "5:cpu,cpuacct:/x\n4:memory:/docker/0123\n0::/docker/0123\n");
        write(cgroup.join("memory/memory.limit_in_bytes"), "5000\n");
        write(cgroup.join("memory/memory.usage_in_bytes"), "2000\n");
        write(cgroup.join("memory/memory.stat"), "inactive_file 1\ntotal_inactive_file 500\n");
        assert_eq!(room_in(&proc, &cgroup).map(|room| room.bytes), Some(3500));
        write(cgroup.join("unified/memory.max"), "3000");
        write(cgroup.join("unified/memory.current"), "0");
        assert_eq!(room_in(&proc, &cgroup).map(|room| room.bytes), Some(3000));
    }
}
