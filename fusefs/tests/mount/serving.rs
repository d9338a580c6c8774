//! What a mount shows, how it can be read, and that it cannot be written.

use crate::support::*;
use rustix::fs::{Advice, OFlags, fadvise};
use rustix::mount::MountFlags;
use securereg_fusefs::{Allow, Mount, MountOptions};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn listed(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn promoted_models_appear_where_the_design_says_and_read_back() {
    let Some(f) = mounted() else { return };
    assert_eq!(listed(&f.at("")), [".by-digest"]);
    // Boundary sizes of groups and pages.
    let group = GROUP as usize;
    for (i, len) in [24, 4095, 4096, 4097, group - 1, group, group + 1, 3 * group + 5].into_iter().enumerate() {
        let bytes = gguf(len, i as u64);
        let path = f.promote(&format!("m{i}"), &bytes);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{len}: readable as soon as promote returns");
        let blob = f.at(".by-digest").join(format!("sha256-{}", f.sha256(&format!("m{i}"))));
        assert_eq!(std::fs::read(blob).unwrap(), bytes);
    }
    let tagged = f.promote("repo:v1", &gguf(100, 9));
    assert_eq!(tagged, f.at("repo/v1/repo_v1.gguf"));
    assert_eq!(std::fs::read(tagged).unwrap(), gguf(100, 9));
    assert!(listed(&f.at("")).contains(&"repo".to_owned()));
    f.registry.delete(&name("repo:v1"), &me()).unwrap();
    assert_eq!(errno(std::fs::metadata(f.at("repo/v1/repo_v1.gguf"))), libc::ENOENT);
    assert!(!listed(&f.at("")).contains(&"repo".to_owned()), "its folders go with it");
    assert_eq!(errno(File::open(f.at("nothing"))), libc::ENOENT);
    assert_eq!(
        errno(std::fs::metadata(f.at(".securereg-revoked-3"))),
        libc::ENOENT,
        "that name is for one thread only"
    );
}

#[test]
fn every_way_to_read_gives_the_same_bytes() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(3 * 1024 * 1024 + 777, 1);
    let path = f.promote("m", &bytes);
    let original = f.dir.path().join("source/m.gguf");
    let mut file = File::open(&path).unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), bytes.len() as u64);
    fadvise(&file, 0, None, Advice::Sequential).unwrap();
    for (at, len) in [(0, 1), (65_535, 2), (1_000_000, 200_000), (bytes.len() - 5, 5)] {
        let mut out = vec![0; len];
        file.read_exact_at(&mut out, at as u64).unwrap();
        assert_eq!(out, bytes[at..at + len]);
    }
    let mut out = [0; 100];
    assert_eq!(file.read_at(&mut out, bytes.len() as u64 - 3).unwrap(), 3, "short only at the end");
    assert_eq!(file.read_at(&mut out, bytes.len() as u64 + 10).unwrap(), 0);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(10)).unwrap(), 10);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(10)).unwrap(), bytes.len() as u64);

    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut out = vec![0; bytes.len() + 4096];
    let mut done = 0;
    loop {
        let n = direct.read_at(&mut out[done..], done as u64).unwrap();
        done += n;
        if n == 0 {
            break;
        }
    }
    assert!(out[..done] == bytes[..], "O_DIRECT");

    for flags in ["shared", "private", "shared-populate", "private-populate"] {
        let args = [path.to_str().unwrap(), original.to_str().unwrap(), flags];
        let mut child = probe::start("map", &args);
        assert!(child.end(Duration::from_secs(30)).is_some_and(|s| s.success()), "{flags}");
    }
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || std::fs::read(path).unwrap())
        })
        .collect();
    for reader in readers {
        assert!(reader.join().unwrap() == bytes, "several readers");
    }
}

#[test]
fn attributes_say_what_was_promoted() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(100_000, 1);
    let path = f.promote("m", &bytes);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.blocks(), meta.blksize()), (100_000, 196, GROUP));
    let catalog = f.registry.catalog().unwrap();
    let artifact = catalog.artifact(&name("m")).unwrap();
    let read = |name: &str| {
        let mut value = vec![0; 200];
        let n = rustix::fs::getxattr(&path, name, &mut value).unwrap();
        String::from_utf8(value[..n].to_vec()).unwrap()
    };
    assert_eq!(read("user.securereg.sha256"), artifact.sha256.to_hex());
    assert_eq!(read("user.securereg.blake3"), artifact.files[0].blake3.to_hex());
    assert_eq!(read("user.securereg.status"), "promoted");
    assert_eq!(read("user.securereg.promoted_at"), artifact.promoted_at);
    let mut names = vec![0; 500];
    let n = rustix::fs::listxattr(&path, &mut names).unwrap();
    assert_eq!(names[..n].split(|b| *b == 0).filter(|s| !s.is_empty()).count(), 4);
    let mut small = [0; 5];
    assert_eq!(rustix::fs::getxattr(&path, "user.securereg.sha256", &mut small), Err(rustix::io::Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&path, "user.other", &mut small), Err(rustix::io::Errno::NODATA));
    let stat = rustix::fs::statvfs(f.at("")).unwrap();
    assert_eq!((stat.f_blocks * stat.f_frsize / 4096, stat.f_bfree, stat.f_files), (25, 0, 1));
    assert!(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY | rustix::fs::StatVfsMountFlags::NOSUID));
}

/// Threat 16.
#[test]
fn t16_modes_follow_who_is_allowed() {
    let allowed = if is_root() { vec![Allow::Owner, Allow::Group(7), Allow::All] } else { vec![Allow::Owner] };
    for allow in allowed {
        let Some(f) = mounted_with(allowing(allow)) else { return };
        let path = f.promote("m", &gguf(100, 1));
        let (file, dir) = (std::fs::metadata(&path).unwrap(), std::fs::metadata(f.at("")).unwrap());
        let expected = match allow {
            Allow::Owner => (0o400, 0o500),
            Allow::Group(_) => (0o440, 0o550),
            Allow::All => (0o444, 0o555),
        };
        assert_eq!((file.permissions().mode() & 0o7777, dir.permissions().mode() & 0o7777), expected, "{allow:?}");
        assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
        if let Allow::Group(gid) = allow {
            assert_eq!((file.gid(), dir.gid()), (gid, gid));
        }
        if is_root() {
            // The mount lies in a private temporary folder: let others reach it, so that only the mount refuses.
            std::fs::set_permissions(f.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            let run = |gid: &str| {
                let status = Command::new("setpriv")
                    .args(["--reuid", "65534", "--regid", gid, "--clear-groups", "cat"])
                    .arg(&path)
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .status();
                status.expect("setpriv is part of util-linux").success()
            };
            let expected = match allow {
                Allow::Owner => (false, false),
                Allow::Group(_) => (false, true),
                Allow::All => (true, true),
            };
            assert_eq!((run("65534"), run("7")), expected, "{allow:?}: another user, and one of the group");
        }
    }
}

fn changes_are_refused(f: &Fixture, path: &Path) {
    let dir = f.at("");
    let refused = |what: &str, errno: i32| assert_eq!(errno, libc::EROFS, "{what}");
    refused("O_WRONLY", errno(OpenOptions::new().write(true).open(path)));
    refused("O_RDWR", errno(OpenOptions::new().read(true).write(true).open(path)));
    refused("O_TRUNC", errno(OpenOptions::new().write(true).truncate(true).open(path)));
    refused("O_APPEND", errno(OpenOptions::new().append(true).open(path)));
    refused("O_CREAT", errno(OpenOptions::new().write(true).create_new(true).open(dir.join("new"))));
    let open = |flags: OFlags| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    refused("mode 3", open(OFlags::from_bits_retain(3)).map_or_else(|e| e.raw_os_error(), |_| 0));
    refused("unlink", errno(std::fs::remove_file(path)));
    refused("rename", errno(std::fs::rename(path, dir.join("other"))));
    refused("mkdir", errno(std::fs::create_dir(dir.join("d"))));
    refused("rmdir", errno(std::fs::remove_dir(dir.join(".by-digest"))));
    refused("link", errno(std::fs::hard_link(path, dir.join("l"))));
    refused("symlink", errno(std::os::unix::fs::symlink("x", dir.join("s"))));
    refused("chmod", errno(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))));
    refused("chown", errno(std::os::unix::fs::chown(path, Some(1), None)));
    refused("truncate", {
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        errno(nix_truncate(&path))
    });
    let xattr = rustix::fs::setxattr(path, "user.x", b"1", rustix::fs::XattrFlags::empty());
    refused("setxattr", xattr.map_or_else(|e| e.raw_os_error(), |()| 0));
    let xattr = rustix::fs::removexattr(path, "user.securereg.sha256");
    refused("removexattr", xattr.map_or_else(|e| e.raw_os_error(), |()| 0));
    let fifo = rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    );
    refused("mknod", fifo.map_or_else(|e| e.raw_os_error(), |()| 0));
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    let utimes = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty());
    refused("utimes", utimes.map_or_else(|e| e.raw_os_error(), |()| 0));
    let file = File::open(path).unwrap();
    assert!(errno(file.set_len(0)) != 0, "ftruncate of a read-only descriptor");
}

fn nix_truncate(path: &std::ffi::CStr) -> std::io::Result<()> {
    // `truncate -s 0` would open; this is truncate(2) itself, through the shell-free way std offers.
    let path = Path::new(std::ffi::OsStr::new(path.to_str().unwrap()));
    let status = Command::new("truncate").args(["-s", "0"]).arg(path).stderr(std::process::Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    if said.contains("Read-only file system") { Err(std::io::Error::from_raw_os_error(libc::EROFS)) } else { Ok(()) }
}

/// Threat 14.
#[test]
fn t14_every_change_through_the_mount_is_erofs() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(100_000, 1);
    let path = f.promote("m", &bytes);
    changes_are_refused(&f, &path);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

/// Threat 14: root can remount rw, and then the daemon is all that refuses.
#[test]
fn t14_a_remount_rw_lets_nothing_be_written() {
    if !is_root() {
        return skip("only root can remount");
    }
    let Some(f) = mounted() else { return };
    let bytes = gguf(100_000, 1);
    let path = f.promote("m", &bytes);
    rustix::mount::mount_remount(f.at(""), MountFlags::empty(), "").unwrap();
    let stat = rustix::fs::statvfs(f.at("")).unwrap();
    assert!(!stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY), "the remount took effect");
    changes_are_refused(&f, &path);
    let mut out = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut out).unwrap();
    assert!(out == bytes);
}

#[test]
fn the_page_cache_is_kept_between_opens() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(1 << 20, 1);
    let path = f.promote("m", &bytes);
    assert!(std::fs::read(&path).unwrap() == bytes);
    // Damage that the stamp does not show: pages that were cached stay right, and are used.
    f.damage_below("m", |file| flip(file, 500_000));
    assert!(std::fs::read(&path).unwrap() == bytes, "verified pages are served from memory");
    assert_eq!(f.status("m"), "promoted");
}

#[test]
fn an_immutable_mount_keeps_even_root_off_the_stored_files() {
    if !is_root() {
        return skip("the immutable flag needs root");
    }
    let f = Fixture::unmounted();
    let probe = f.dir.path().join("probe");
    std::fs::write(&probe, b"").unwrap();
    let has_flag = Command::new("chattr").arg("+i").arg(&probe).status().is_ok_and(|s| s.success());
    if !has_flag || !may_mount() {
        return skip("this file system has no immutable flag");
    }
    assert!(Command::new("chattr").arg("-i").arg(&probe).status().unwrap().success());
    let before = f.promote("before", &gguf(1000, 1));
    assert!(!before.exists(), "nothing is mounted yet");
    let options = MountOptions { immutable: true, ..MountOptions::default() };
    let mount = Mount::new(f.registry.clone(), &f.at(""), options).unwrap();
    let refused = |model: &str| errno(OpenOptions::new().write(true).open(f.blob(model)));
    assert_eq!(refused("before"), libc::EPERM);
    let later = f.promote("later", &gguf(1000, 2));
    until("the flag on a model promoted later", Duration::from_secs(10), || refused("later") == libc::EPERM);
    assert_eq!(std::fs::read(&later).unwrap(), gguf(1000, 2));
    for model in ["before", "later"] {
        f.registry.delete(&name(model), &me()).unwrap();
    }
    assert_eq!(listed(&f.registry.root().join("blobs/sha256")), Vec::<String>::new());
    mount.unmount().unwrap();
}
