//! The last few manifests, kept for a recovery.
//!
//! Owns: the folder `history/`. Promises: keeping one never fails or delays a change by a sync: what a power cut tears is known by its
//! last line, like every manifest. Leaves out: what is made of them (`recover`).

use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Layout, read_bounded};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use std::fs::File;
use std::os::fd::OwnedFd;

/// How many are kept.
const KEPT: usize = 8;
const FOLDER: &str = "history";
const PREFIX: &str = "manifest-";

/// Keeps the text of a generation, and drops the oldest. What cannot be kept is only said.
pub(crate) fn keep(layout: &Layout, generation: u64, text: &str) {
    let kept = layout.made_folder(FOLDER).and_then(|folder| {
        let _in_use = layout.use_temp()?;
        let (_, temp) = layout.write_temp_unsynced(text.as_bytes())?;
        layout.publish_in(&temp, &folder, &name(generation)).inspect_err(|_| layout.discard(&temp))?;
        let generations = generations(&folder)?;
        for old in generations.iter().rev().skip(KEPT) {
            let _ = rustix::fs::unlinkat(&folder, name(*old), AtFlags::empty());
        }
        Ok(())
    });
    if let Err(e) = kept {
        tracing::warn!(error = %e, generation, "a copy of the manifest is not kept for a recovery");
    }
}

/// What is kept, the newest first, whether it can be used or not. One that the disk does not give is an error.
pub(crate) fn texts(layout: &Layout, limit: u64) -> Result<Vec<(u64, Vec<u8>)>> {
    let Some(folder) = layout.some_folder(FOLDER)? else { return Ok(Vec::new()) };
    let mut texts = Vec::new();
    for generation in generations(&folder)?.into_iter().rev() {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let failed = |e: Error| {
            let name = name(generation);
            let why =
                format!("history/{name} cannot be read: {}; try again, or remove it to do without it", e.message());
            Error::new(e.kind(), why).because(e)
        };
        let file = match rustix::fs::openat(&folder, name(generation), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // A link: nothing that was kept here.
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(failed(Error::io("opening it", e))),
        };
        match read_bounded(&file, FOLDER, limit) {
            Ok(bytes) => texts.push((generation, bytes)),
            Err(e) if matches!(e.kind(), ErrorKind::TooLarge | ErrorKind::InvalidInput) => {}
            // An older one in its place would lose what has come since.
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(texts)
}

fn generations(folder: &OwnedFd) -> Result<Vec<u64>> {
    let entries = Dir::read_from(folder).map_err(|e| Error::io("listing history", e))?;
    let names = entries.flatten().filter_map(|e| e.file_name().to_str().ok()?.strip_prefix(PREFIX)?.parse().ok());
    let mut generations: Vec<u64> = names.collect();
    generations.sort_unstable();
    Ok(generations)
}

fn name(generation: u64) -> String {
    format!("{PREFIX}{generation:020}")
}
