//! What a root remembers apart from its manifest and its log.
//!
//! Owns: the file `generation`: the highest generation that was written, and the last line of the log at that time, signed where
//! the root has a key. Promises: an older manifest, an older log and one cut short are noticed by it; neither number ever
//! goes back. Leaves out: what follows (`store`).

use crate::audit::Anchor;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Keys, Signed};
use crate::layout::{Folder, Layout};

/// The file's name in the root.
pub(crate) const GENERATION: &str = "generation";

/// What is remembered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) generation: u64,
    pub(crate) log: Option<Anchor>,
}

impl Memory {
    /// Reads it; nothing is remembered in a root that has no such file, unless it signs: such a root had one from its first day.
    pub(crate) fn read(layout: &Layout, keys: &Keys) -> Result<Memory> {
        let bad = |why: &str| {
            let remedy = "`securereg recover` says what can be done";
            Error::new(ErrorKind::Manifest, format!("the file `generation` in the root {why}; {remedy}"))
        };
        let bytes = match layout.read_small(Folder::Root, GENERATION, 512) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound && keys.public.is_none() => return Ok(Memory::default()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(bad("is missing")),
            Err(e) => return Err(e),
        };
        let parsed = std::str::from_utf8(&bytes).ok().and_then(Memory::parse);
        let (memory, signed) = parsed.ok_or_else(|| bad("does not hold a number: it was changed by another hand"))?;
        keys.check(&memory.message(), signed.as_ref()).map_err(|why| bad(&format!("is refused: {why}")))?;
        Ok(memory)
    }

    /// Writes it, so that a crash leaves the old or the new one.
    pub(crate) fn write(&self, layout: &Layout, keys: &Keys) -> Result<()> {
        let signed = keys.sign(&self.message())?;
        layout.write_atomically(Folder::Root, GENERATION, self.render(signed.as_ref()).as_bytes())
    }

    /// Remembers a generation and a line as well. It never forgets a higher one.
    pub(crate) fn advanced(mut self, generation: u64, log: &Anchor) -> Memory {
        self.generation = self.generation.max(generation);
        if self.log.as_ref().is_none_or(|before| before.seq < log.seq) {
            self.log = Some(log.clone());
        }
        self
    }

    fn words(&self) -> String {
        match &self.log {
            Some(Anchor { seq, hash }) => format!("{} {seq} {hash}", self.generation),
            None => self.generation.to_string(),
        }
    }

    /// What is signed: never the words of anything else that this key signs.
    fn message(&self) -> String {
        format!("securereg memory\n{}\n", self.words())
    }

    fn render(&self, signed: Option<&Signed>) -> String {
        match signed {
            Some(Signed { key, signature }) => format!("{} key={key} ed25519={signature}\n", self.words()),
            None => format!("{}\n", self.words()),
        }
    }

    fn parse(text: &str) -> Option<(Memory, Option<Signed>)> {
        let (text, signed) = match text.trim_end().split_once(" key=") {
            Some((text, signed)) => {
                let (key, signature) = signed.split_once(" ed25519=")?;
                (text, Some(Signed { key: key.to_owned(), signature: signature.to_owned() }))
            }
            None => (text.trim_end(), None),
        };
        let mut words = text.split(' ');
        let generation = words.next()?.parse().ok()?;
        let log = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some(seq), Some(hash), None) => Some(Anchor { seq: seq.parse().ok()?, hash: hash.to_owned() }),
            _ => return None,
        };
        Some((Memory { generation, log }, signed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key;
    use crate::layout::Access;

    #[test]
    fn a_memory_is_read_back_and_nothing_else_is() {
        let log = Some(Anchor { seq: 7, hash: "ab".into() });
        let signed = Signed { key: "cd".into(), signature: "ef".into() };
        for memory in [Memory::default(), Memory { generation: 3, log: None }, Memory { generation: 3, log }] {
            for signed in [None, Some(signed.clone())] {
                assert_eq!(Memory::parse(&memory.render(signed.as_ref())), Some((memory.clone(), signed)));
            }
        }
        for bad in ["", "x", "1 2", "1 2 ab cd", "1 x ab", "-1", "1 2 ab key=cd", " key=a ed25519=b"] {
            assert_eq!(Memory::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn neither_number_goes_back() {
        let at = |seq| Anchor { seq, hash: seq.to_string() };
        let memory = Memory::default().advanced(3, &at(7)).advanced(2, &at(6));
        assert_eq!(memory, Memory { generation: 3, log: Some(at(7)) });
    }

    #[test]
    fn in_a_root_that_signs_a_memory_that_is_missing_or_made_by_hand_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::open(dir.path(), Access::Create).expect("a root");
        let read = || Memory::read(&layout, &Keys::load(&layout).expect("keys")).map_err(|e| e.kind());
        assert_eq!(read(), Ok(Memory::default()));
        key::publish(&layout, &key::make(&layout).expect("made")).expect("published");
        assert_eq!(read(), Err(ErrorKind::Manifest), "missing");
        let memory = Memory { generation: 3, log: Some(Anchor { seq: 7, hash: "ab".into() }) };
        memory.write(&layout, &Keys::load(&layout).expect("keys")).expect("written");
        assert_eq!(read(), Ok(memory.clone()));
        let path = dir.path().join(GENERATION);
        let good = std::fs::read_to_string(&path).expect("read");
        for bad in [good.replacen('3', "2", 1), good.replace(" ab", " ac"), memory.render(None)] {
            std::fs::write(&path, bad).expect("written");
            assert_eq!(read(), Err(ErrorKind::Manifest));
        }
    }
}
