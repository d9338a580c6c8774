//! The judge between a candidate and the catalog.
//!
//! Owns: what evidence a promotion needs and the proof that it was given. Promises: [`Cleared`] is made only here, by
//! [`judge`], from evidence about every file of the candidate; nothing inspected is a refusal, not a pass. Leaves out:
//! finding the evidence (`format`), writing the catalog (`promote`).

use crate::artifact::{FileEntry, Format, Layout};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Kind;
use crate::name::RelPath;
use std::collections::HashSet;

/// What was found of each file, while its bytes were read.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) kinds: Vec<(RelPath, Kind)>,
}

/// Proof that policy admitted these very files: only [`judge`] makes it, only publishing consumes it.
#[derive(Debug)]
pub(crate) struct Cleared {
    files: Vec<FileEntry>,
    format: Format,
}

impl Cleared {
    pub(crate) fn into_parts(self) -> (Vec<FileEntry>, Format) {
        (self.files, self.format)
    }
}

/// Judges a candidate. `claimed` is what the promoter says its format is.
pub(crate) fn judge(
    layout: Layout,
    files: Vec<FileEntry>,
    evidence: &Evidence,
    claimed: Option<Format>,
) -> Result<Cleared> {
    let refuse = |why: String| Err(Error::new(ErrorKind::Refused, why));
    let inspected: HashSet<&RelPath> = evidence.kinds.iter().map(|(path, _)| path).collect();
    if let Some(file) = files.iter().find(|file| !inspected.contains(&file.path)) {
        return refuse(format!("{} was not inspected", file.path));
    }
    let mut models = evidence.kinds.iter().filter_map(|(path, kind)| match kind {
        Kind::Model(format) => Some((path, *format)),
        Kind::Companion => None,
    });
    let Some((first, format)) = models.next() else {
        return refuse("it holds no model: neither a GGUF nor a safetensors file".into());
    };
    if let Some((other, found)) = models.find(|(_, f)| *f != format) {
        return refuse(format!("it mixes formats: {first} is {}, {other} is {}", format.as_str(), found.as_str()));
    }
    if layout == Layout::Split && format != Format::Gguf {
        return refuse("a split set must be GGUF".into());
    }
    match claimed {
        Some(claim) if claim != format => {
            refuse(format!("it is claimed to be {}, its content is {}", claim.as_str(), format.as_str()))
        }
        _ => Ok(Cleared { files, format }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Blake3Digest, Sha256Digest};

    fn entry(path: &str) -> FileEntry {
        FileEntry {
            path: path.parse().expect("a path"),
            size_bytes: 1,
            sha256: Sha256Digest::of(path.as_bytes()),
            blake3: Blake3Digest::from_bytes([0; 32]),
        }
    }

    fn verdict(files: &[&str], kinds: &[(&str, Kind)], claimed: Option<Format>, layout: Layout) -> Result<Cleared> {
        let evidence = Evidence { kinds: kinds.iter().map(|(p, k)| (p.parse().expect("a path"), *k)).collect() };
        judge(layout, files.iter().map(|p| entry(p)).collect(), &evidence, claimed)
    }

    const G: Kind = Kind::Model(Format::Gguf);
    const S: Kind = Kind::Model(Format::Safetensors);

    #[test]
    fn a_whole_and_uniform_candidate_is_cleared() {
        let cleared = verdict(
            &["c.json", "m.gguf"],
            &[("c.json", Kind::Companion), ("m.gguf", G)],
            Some(Format::Gguf),
            Layout::Folder,
        );
        let (files, format) = cleared.expect("cleared").into_parts();
        assert_eq!((files.len(), format), (2, Format::Gguf));
    }

    #[test]
    fn nothing_inspected_is_a_refusal() {
        for (files, kinds, claimed, layout, why) in [
            (&["m.gguf"][..], &[][..], None, Layout::File, "not inspected"),
            (&["m.gguf", "x.json"], &[("m.gguf", G)], None, Layout::Folder, "x.json was not inspected"),
            (&["c.json"], &[("c.json", Kind::Companion)], None, Layout::Folder, "no model"),
            (&[], &[], None, Layout::Folder, "no model"),
            (
                &["a.gguf", "b.safetensors"],
                &[("a.gguf", G), ("b.safetensors", S)],
                None,
                Layout::Folder,
                "mixes formats",
            ),
            (&["a.gguf"], &[("a.gguf", G)], Some(Format::Safetensors), Layout::File, "claimed to be safetensors"),
            (&["a.safetensors"], &[("a.safetensors", S)], None, Layout::Split, "must be GGUF"),
        ] {
            let e = verdict(files, kinds, claimed, layout).expect_err(why);
            assert_eq!(e.kind(), ErrorKind::Refused);
            assert!(e.to_string().contains(why), "{e} should say {why:?}");
        }
    }
}
