//! Writing what was found damaged.
//!
//! Owns: the writes of a repair. Promises: each group is read once into private memory, compared with the tree, and written out of
//! that memory; what is written is synced before anything is renamed or said; the file is read-only again, and immutable if it
//! was. Leaves out: what is written (`look`).

use super::look::{Pages, Plan, Reader, open_seconds};
use super::{Meter, Repair};
use crate::catalog::Catalog;
use crate::catalog::store::Decision;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::immutable;
use crate::ingest::READ_ONLY;
use crate::layout::{Folder, blob_name};
use crate::scan::Stored;
use crate::sys::NoFileSizeSignal;
use crate::tree::{GROUP, Tree};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

/// What was written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Written {
    pub(super) groups: u64,
    pub(super) bytes: u64,
}

impl<'t> Repair<'_, 't> {
    /// Writes one file, and its tree.
    pub(super) fn heal(&self, plan: &Plan<'_>, meter: &mut Meter<'_, 't>) -> Result<Written> {
        if plan.in_place {
            let written = self.write_in_place(plan, meter)?;
            self.publish(plan, None)?;
            return Ok(written);
        }
        let (size, free) = (plan.blob.entry.size_bytes, self.inner.layout().free_bytes()?);
        if size > free {
            let why = format!("{size} bytes are to be written, {free} are free (less 5 percent): free some space");
            return Err(Error::new(ErrorKind::NoSpace, why));
        }
        let (temp, written) = self.write_anew(plan, meter)?;
        self.publish(plan, Some(&temp))?;
        Ok(written)
    }

    fn tree(&self, plan: &Plan<'_>) -> Result<Tree> {
        let (layout, entry) = (self.inner.layout(), plan.blob.entry);
        let file = match &plan.tree {
            Some(temp) => layout.read_temp(temp)?,
            None => layout
                .read(Folder::Trees, &blob_name(&entry.sha256), OFlags::empty())
                .map_err(|e| Error::io("opening a hash tree", e))?,
        };
        Tree::open(file, entry.size_bytes, entry.blake3)
    }

    /// Writes the bad groups of the stored file itself. A stop in between leaves some of them bad, as they were.
    fn write_in_place(&self, plan: &Plan<'_>, meter: &mut Meter<'_, 't>) -> Result<Written> {
        let entry = plan.blob.entry;
        let stored = Stored::open(self.inner.layout(), &entry.sha256, false)?.file;
        let Writable { file, was_immutable } = self.open_to_write(plan, &stored)?;
        let written = self.write_groups(plan, &file, None, meter);
        let io = |e: std::io::Error| Error::io(format_args!("writing the stored file of {}", entry.path), e);
        // Whatever came of it.
        let closed = rustix::fs::fchmod(&file, READ_ONLY).map_err(|e| io(e.into()));
        let written = written?;
        closed?;
        if file.metadata().map_err(io)?.len() != entry.size_bytes {
            file.set_len(entry.size_bytes).map_err(io)?;
        }
        durable::sync_file(&file).map_err(io)?;
        if was_immutable {
            immutable::protect(self.inner.layout(), &entry.sha256)?;
        }
        Ok(written)
    }

    /// The stored file, for writing: it is read-only, and may be immutable.
    fn open_to_write(&self, plan: &Plan<'_>, stored: &File) -> Result<Writable> {
        let name = blob_name(&plan.blob.entry.sha256);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let open = || rustix::fs::openat(self.inner.layout().folder(Folder::Blobs), &*name, flags, Mode::empty());
        let mut was_immutable = false;
        let mut opened = open();
        if matches!(opened, Err(Errno::PERM)) {
            was_immutable = immutable::unprotect(stored);
            opened = open();
        }
        if matches!(opened, Err(Errno::ACCESS)) {
            // Its owner may not write it either. A crash now leaves a mode that fsck names.
            let _ = rustix::fs::fchmod(stored, Mode::RUSR | Mode::WUSR);
            opened = open();
        }
        let file =
            opened.map(File::from).map_err(|e| Error::io(format_args!("opening {name} in blobs to write"), e))?;
        let id = |file: &File| file.metadata().map(|meta| (meta.ino(), meta.nlink()));
        match (id(&file), id(stored)) {
            (Ok((a, 1)), Ok((b, _))) if a == b => Ok(Writable { file, was_immutable }),
            _ => {
                let why = "the stored file was replaced, or linked to, while it was looked at: repair again";
                Err(Error::new(ErrorKind::SourceChanged, why))
            }
        }
    }

    /// Writes the whole file to tmp/: its good groups, and the others from elsewhere.
    fn write_anew(&self, plan: &Plan<'_>, meter: &mut Meter<'_, 't>) -> Result<(String, Written)> {
        let (layout, entry) = (self.inner.layout(), plan.blob.entry);
        let (file, temp) = layout.new_temp(OFlags::empty())?;
        self.temps.keep(&temp);
        let good = plan.bad.iter().any(|bad| !bad);
        let own = good.then(|| Stored::open(layout, &entry.sha256, false)).transpose()?;
        let written = self.write_groups(plan, &file, own, meter)?;
        let io = |e: std::io::Error| Error::io(format_args!("writing {} anew", entry.path), e);
        rustix::fs::fchmod(&file, READ_ONLY).map_err(|e| io(e.into()))?;
        durable::sync_file(&file).map_err(io)?;
        Ok((temp, written))
    }

    /// Writes the bad groups to `to`; with the stored file `own` at hand, also its good ones.
    fn write_groups(
        &self,
        plan: &Plan<'_>,
        to: &File,
        own: Option<Stored>,
        meter: &mut Meter<'_, 't>,
    ) -> Result<Written> {
        let entry = plan.blob.entry;
        let tree = self.tree(plan)?;
        let mut pages = Pages::new(&tree);
        let reader = |from| Reader::new(from, entry.size_bytes, GROUP);
        let mut own = own.map(reader);
        let mut seconds: Vec<Reader> = open_seconds(&plan.blob.seconds).into_iter().map(reader).collect();
        let mut written = Written::default();
        let _quiet = NoFileSizeSignal::new();
        for (group, bad) in (0..).zip(plan.bad.iter().copied()) {
            let candidates = if bad { &mut seconds[..] } else { own.as_mut_slice() };
            if candidates.is_empty() && !bad {
                continue;
            }
            let page = pages.of(group)?;
            let mut done = false;
            for candidate in candidates {
                // The one read of it: what is compared here is what is written.
                let Some(bytes) = candidate.good(&tree, page, group)? else { continue };
                to.write_all_at(bytes, group * GROUP)
                    .map_err(|e| Error::io(format_args!("writing {} from {}", entry.path, group * GROUP), e))?;
                written.groups += u64::from(bad);
                written.bytes += if bad { bytes.len() as u64 } else { 0 };
                meter.step(bytes.len() as u64)?;
                done = true;
                break;
            }
            if !done {
                let why = format!(
                    "{} from {} on was good a moment ago, and is not any more: stop what writes there and repair again",
                    entry.path,
                    group * GROUP
                );
                return Err(Error::new(ErrorKind::SourceChanged, why));
            }
        }
        Ok(written)
    }

    /// Renames what was written to tmp/ into place, while the model still holds it.
    fn publish(&self, plan: &Plan<'_>, blob: Option<&str>) -> Result<()> {
        if blob.is_none() && plan.tree.is_none() {
            return Ok(());
        }
        let (layout, sha256) = (self.inner.layout(), plan.blob.entry.sha256);
        let name = blob_name(&sha256);
        let replace = |catalog: &Catalog| {
            if catalog.holders(&sha256).next().is_none() {
                let why = format!("{} was deleted while it was repaired", plan.blob.entry.path);
                return Err(Error::new(ErrorKind::NotFound, why));
            }
            if let Some(temp) = blob {
                layout.publish(temp, Folder::Blobs, &name)?;
                layout.sync(Folder::Blobs)?;
            }
            if let Some(temp) = &plan.tree {
                layout.publish(temp, Folder::Trees, &name)?;
                layout.sync(Folder::Trees)?;
            }
            Ok(Decision::Keep(()))
        };
        self.inner.commit(self.actor, replace).map(drop)
    }
}

/// A stored file, open for writing.
struct Writable {
    file: File,
    was_immutable: bool,
}
