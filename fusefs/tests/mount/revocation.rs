//! Quarantine, by whatever process.

use crate::support::*;
use securereg::Registry;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

#[test]
fn quarantine_from_another_process_is_refused_within_100_ms_and_cached_pages_are_dropped() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(1 << 20, 1);
    let path = f.promote("m", &bytes);
    f.promote("other", &gguf(1000, 2));
    let original = f.dir.path().join("source/m.gguf");
    let args = |flags| [path.to_str().unwrap().to_owned(), original.to_str().unwrap().to_owned(), String::from(flags)];
    let mut holders: Vec<_> =
        ["shared", "private"].map(args).iter().map(|a| probe::start("hold", &[&a[0], &a[1], &a[2]])).collect();
    holders.iter().for_each(|h| assert_eq!(h.line(), "held"));
    let file = File::open(&path).unwrap();
    let mut out = vec![0; bytes.len()];
    file.read_exact_at(&mut out, 0).unwrap();

    let another = probe::start("quarantine", &[f.registry.root().to_str().unwrap(), "m"]);
    assert_eq!(another.line(), "quarantined");
    assert_eq!(errno(File::open(&path)), libc::EACCES, "the very next open is refused");
    let gone = until("an open descriptor is refused", Duration::from_secs(5), || {
        errno(file.read_exact_at(&mut out[..10], 0)) == libc::EIO
    });
    assert!(gone < Duration::from_millis(100), "{gone:?}");
    for holder in &mut holders {
        holder.go();
        let status = holder.end(Duration::from_secs(10));
        assert!(status.is_some_and(probe::is_sigbus), "a mapping is refused: {status:?}");
    }
    let listed: Vec<_> = std::fs::read_dir(f.at("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!listed.contains(&"m.gguf".into()) && listed.contains(&"other.gguf".into()), "{listed:?}");
    assert!(std::fs::metadata(&path).is_ok(), "it is there, or open would say ENOENT");
    let blob = f.at(".by-digest").join(format!("sha256-{}", f.sha256("m")));
    assert_eq!(errno(File::open(blob)), libc::EACCES);
    assert!(std::fs::read(f.at("other.gguf")).is_ok(), "the others are served");
}

#[test]
fn a_manifest_that_cannot_be_vouched_for_refuses_new_opens() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(100_000, 1);
    let path = f.promote("m", &bytes);
    let file = File::open(&path).unwrap();
    let manifest = f.registry.root().join("manifest.yaml");
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &good[..good.len() / 2]).unwrap();
    assert_eq!(errno(File::open(&path)), libc::EIO);
    assert_eq!(errno(std::fs::read_dir(f.at(""))), libc::EIO);
    std::fs::write(&manifest, &good).unwrap();
    until("served again", Duration::from_secs(5), || std::fs::read(&path).is_ok_and(|got| got == bytes));
    let mut out = vec![0; 10];
    file.read_exact_at(&mut out, 0).unwrap();
}

#[test]
fn a_quarantine_followed_by_a_delete_is_not_taken_for_a_delete() {
    let Some(f) = mounted() else { return };
    let other = Registry::open(f.registry.root()).unwrap();
    for n in 0..20 {
        let model = format!("m{n}");
        let path = f.promote(&model, &gguf(1 << 20, n));
        let file = File::open(&path).unwrap();
        file.read_exact_at(&mut [0; 100], 0).unwrap();
        other.quarantine(&name(&model), "test", None, &me()).unwrap();
        other.delete(&name(&model), &me()).unwrap();
        until("EIO on the open descriptor", Duration::from_secs(5), || {
            file.read_exact_at(&mut [0; 100], 0).is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
        });
    }
}

#[test]
fn a_deleted_model_is_enoent_and_open_descriptors_stay_verified() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(1 << 20, 1);
    let path = f.promote("m", &bytes);
    let file = File::open(&path).unwrap();
    f.registry.delete(&name("m"), &me()).unwrap();
    assert_eq!(errno(File::open(&path)), libc::ENOENT);
    let mut out = vec![0; bytes.len()];
    file.read_exact_at(&mut out, 0).unwrap();
    assert!(out == bytes);
}

#[test]
fn a_tag_that_moves_shows_the_new_content_at_the_next_open() {
    let Some(f) = mounted() else { return };
    let (old, new) = (gguf(200_000, 1), gguf(200_000, 2));
    let path = f.promote("repo:t", &old);
    let file = File::open(&path).unwrap();
    assert!(std::fs::read(&path).unwrap() == old);
    f.promote("repo:t", &new);
    assert!(std::fs::read(&path).unwrap() == new, "never old pages under new content");
    let mut out = vec![0; old.len()];
    file.read_exact_at(&mut out, 0).unwrap();
    assert!(out == old, "who has it open goes on with what it opened");
}
