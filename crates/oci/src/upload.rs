//! An upload's states, without its bytes.
//!
//! Owns: which request an upload takes next, and how far it is. Promises: an upload only grows, byte after byte: a chunk that does not begin where
//! the last one ended changes nothing (416), so that what was acknowledged is never lost or overwritten; a body is never longer than it said.
//! Leaves out: files, digests, expiry, and to whom the upload belongs. Whoever owns the session holds its lock from `accept_*` to [`Upload::received`].
//!
//! ```text
//! POST ─ Upload::new ──▶ open, size 0 ◀──────────────── received(bytes) ┐
//!                          │ PATCH: accept_patch ─ Accept ─ bytes ──────┤
//!                          │ PUT:   accept_put   ─ Accept ─ bytes ──────┴─ digest checked ──▶ a blob; or else as it was before the PUT
//!                          └ GET:   204, Range: range_header(size)
//! ```

use crate::error::{Code, Failure};
use serde_json::json;

/// How far an upload is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upload {
    size: u64,
}

/// A body that may be written now, at the upload's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Accept {
    start: u64,
    length: Option<u64>,
}

impl Accept {
    /// Where its first byte goes: the upload's size.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes it has, when it said so; whoever writes stops reading beyond.
    pub fn length(&self) -> Option<u64> {
        self.length
    }
}

impl Upload {
    /// A new upload.
    pub fn new() -> Upload {
        Upload::default()
    }

    /// An upload of which `size` bytes are there, after a restart.
    pub fn resumed(size: u64) -> Upload {
        Upload { size }
    }

    /// How many bytes are there.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a PATCH may be written: one with the `Content-Range` and the `Content-Length` given. Without either it is a stream of any length.
    ///
    /// # Errors
    /// `RANGE_INVALID` (416, with [`range_header`]) when it does not begin at the upload's end; `SIZE_INVALID` (400) when the two disagree.
    pub fn accept_patch(
        &self,
        content_range: Option<(u64, u64)>,
        content_length: Option<u64>,
    ) -> Result<Accept, Failure> {
        let ranged = content_range.map(|(start, end)| self.next(start, end)).transpose()?;
        if let (Some(ranged), Some(length)) = (ranged, content_length)
            && ranged != length
        {
            return Err(Failure::new(
                Code::SizeInvalid,
                format!("the chunk has {length} bytes by its Content-Length, and {ranged} by its Content-Range"),
            ));
        }
        let length = ranged.or(content_length);
        if length.is_some_and(|length| self.size.checked_add(length).is_none()) {
            return Err(Failure::new(Code::SizeInvalid, "the blob would have more bytes than can be counted"));
        }
        Ok(Accept { start: self.size, length })
    }

    /// Whether the last PUT's body may be written; as of a PATCH, and most clients send none.
    ///
    /// # Errors
    /// Those of [`Upload::accept_patch`].
    pub fn accept_put(
        &self,
        content_range: Option<(u64, u64)>,
        content_length: Option<u64>,
    ) -> Result<Accept, Failure> {
        self.accept_patch(content_range, content_length)
    }

    /// The length of the chunk from `start` to `end`, when it is the next.
    fn next(&self, start: u64, end: u64) -> Result<u64, Failure> {
        if start != self.size {
            let range = range_header(self.size);
            return Err(Failure::new(
                Code::RangeInvalid,
                format!("the chunk begins at {start}, the upload goes on at {}: send what follows", self.size),
            )
            .with_detail(json!({ "range": range, "next": self.size })));
        }
        match end.checked_sub(start).and_then(|last| last.checked_add(1)) {
            Some(length) => Ok(length),
            None => Err(Failure::new(Code::SizeInvalid, format!("a chunk from {start} to {end} has no length"))),
        }
    }

    /// `bytes` of the body were written and are there to stay. Fewer than it said are kept: the client may go on behind them.
    ///
    /// # Errors
    /// `SIZE_INVALID` (400) when there are more or fewer than it said; of more, none counts, and what was written is to be cut off at [`Upload::size`].
    /// `BLOB_UPLOAD_INVALID` (400) when another body was written in between: none counts.
    pub fn received(&mut self, accept: Accept, bytes: u64) -> Result<(), Failure> {
        if accept.start != self.size {
            return Err(Failure::new(
                Code::BlobUploadInvalid,
                "another request wrote to the upload: ask for its size and go on there",
            ));
        }
        let said = accept.length.unwrap_or(bytes);
        let wrong =
            || Failure::new(Code::SizeInvalid, format!("the body has {bytes} bytes where {said} were announced"));
        if bytes > said {
            return Err(wrong());
        }
        self.size = self.size.checked_add(bytes).ok_or_else(wrong)?;
        if bytes < said { Err(wrong()) } else { Ok(()) }
    }
}

/// The `Range` that says what is there: `0-<last byte>`. Of nothing it is `0-0`, as distribution sends it: the spec has no form for it.
pub fn range_header(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

/// Whether `id` may be a session's: 16 to 64 lower-case hex digits and dashes, a UUID for one. Safe in a path.
pub fn valid_id(id: &str) -> bool {
    (16..=64).contains(&id.len())
        && !id.starts_with('-')
        && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chunk_begins_where_the_upload_ends() {
        let ten = Upload::resumed(10);
        for (range, length, expected) in [
            (None, None, Ok(None)),
            (None, Some(0), Ok(Some(0))),
            (None, Some(5), Ok(Some(5))),
            (Some((10, 10)), None, Ok(Some(1))),
            (Some((10, 14)), Some(5), Ok(Some(5))),
            (Some((10, 14)), Some(4), Err((Code::SizeInvalid, 400))),
            (Some((10, 14)), Some(6), Err((Code::SizeInvalid, 400))),
            (Some((10, 14)), Some(0), Err((Code::SizeInvalid, 400))),
            (Some((10, 9)), None, Err((Code::SizeInvalid, 400))),
            (Some((0, 4)), Some(5), Err((Code::RangeInvalid, 416))),
            (Some((9, 13)), Some(5), Err((Code::RangeInvalid, 416))),
            (Some((11, 15)), Some(5), Err((Code::RangeInvalid, 416))),
            (Some((11, 15)), Some(4), Err((Code::RangeInvalid, 416))),
            (None, Some(u64::MAX), Err((Code::SizeInvalid, 400))),
        ] {
            for accepted in [ten.accept_patch(range, length), ten.accept_put(range, length)] {
                let found = accepted.map(|a| (a.start(), a.length())).map_err(|f| (f.code, f.status));
                assert_eq!(found, expected.map(|length| (10, length)), "{range:?} {length:?}");
            }
        }
        assert_eq!(Upload::new().accept_patch(Some((0, u64::MAX)), None).unwrap_err().code, Code::SizeInvalid);
        let detail = ten.accept_put(Some((0, 4)), Some(5)).unwrap_err().detail.unwrap();
        assert_eq!(detail, json!({ "range": "0-9", "next": 10 }));
    }

    #[test]
    fn what_was_received_stays_and_too_much_does_not() {
        let mut upload = Upload::new();
        let five = upload.accept_patch(Some((0, 4)), Some(5)).unwrap();
        assert_eq!(upload.received(five, 6).unwrap_err().code, Code::SizeInvalid);
        assert_eq!(upload.size(), 0);
        assert_eq!(upload.received(five, 3).unwrap_err().code, Code::SizeInvalid);
        assert_eq!(upload.size(), 3);
        assert_eq!(upload.received(five, 5).unwrap_err().code, Code::BlobUploadInvalid);
        assert_eq!(upload.size(), 3);
        let stream = upload.accept_patch(None, None).unwrap();
        assert_eq!(upload.received(stream, u64::MAX).unwrap_err().code, Code::SizeInvalid);
        assert_eq!(upload.size(), 3);
        upload.received(stream, 4).unwrap();
        let none = upload.accept_put(None, Some(0)).unwrap();
        upload.received(none, 0).unwrap();
        assert_eq!(upload.size(), 7);
    }

    #[test]
    fn the_range_is_of_the_bytes_that_are_there() {
        for (size, range) in [(0, "0-0"), (1, "0-0"), (2, "0-1"), (u64::MAX, "0-18446744073709551614")] {
            assert_eq!(range_header(size), range);
        }
    }

    #[test]
    fn an_id_is_safe_in_a_path() {
        let longest = "0".repeat(64);
        for good in ["0123456789abcdef", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", &longest] {
            assert!(valid_id(good), "{good}");
        }
        for bad in [
            "",
            "..",
            "0123456789abcde",
            "0123456789abcdeg",
            "0123456789ABCDEF",
            "../0123456789abcdef",
            "-123456789abcdef",
        ] {
            assert!(!valid_id(bad), "{bad}");
        }
        assert!(!valid_id(&format!("{longest}0")));
    }

    proptest! {
        #[test]
        fn an_upload_only_grows(
            requests in prop::collection::vec(
                (any::<Option<(u64, u64)>>(), any::<Option<u64>>(), any::<u64>(), any::<bool>()), 0..40
            ),
        ) {
            let mut upload = Upload::new();
            for (range, length, bytes, small) in requests {
                let at = upload.size();
                // Half of the requests are such as a client would send.
                let range = if small { range.map(|(_, end)| (at, at.saturating_add(end % 9))) } else { range };
                let (length, bytes) = if small { (length.map(|n| n % 9), bytes % 9) } else { (length, bytes) };
                if let Ok(accept) = upload.accept_patch(range, length) {
                    prop_assert_eq!(accept.start(), at);
                    let before = upload;
                    match upload.received(accept, bytes) {
                        Ok(()) => prop_assert_eq!(upload.size(), at + bytes),
                        Err(_) => prop_assert!(upload == before || upload.size() == at + bytes),
                    }
                }
                prop_assert!(upload.size() >= at);
            }
        }
    }
}
