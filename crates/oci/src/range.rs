//! Ranges of bytes: those asked for, and those sent.
//!
//! Owns: `Range` of a download (RFC 9110, section 14) and `Content-Range` of an upload (distribution-spec, "Pushing a blob in chunks"). Promises: a
//! range that is granted lies within the blob and is not empty. Leaves out: several ranges in one reply, which RFC 9110 lets a server ignore.

use crate::error::{Code, Failure, shorten};

/// The range that is to be sent of a blob of `size` bytes, first and last byte; `None` is the whole blob (200).
///
/// Another unit, several ranges, and what is no range are ignored, as RFC 9110 says.
///
/// # Errors
/// `RANGE_INVALID` (416) when the range begins past the end; the reply takes [`unsatisfied`] for its `Content-Range`.
pub fn blob_range(header: Option<&str>, size: u64) -> Result<Option<(u64, u64)>, Failure> {
    let Some(wanted) = header.and_then(single) else { return Ok(None) };
    let beyond = || {
        Failure::new(Code::RangeInvalid, format!("the range begins past the end of the blob, which has {size} bytes"))
    };
    match wanted {
        Wanted::Last(0) => Err(beyond()),
        // Nothing is not a range that a reply could hold.
        Wanted::Last(_) if size == 0 => Ok(None),
        Wanted::Last(n) => Ok(Some((size.saturating_sub(n), size - 1))),
        Wanted::From(start, _) if start >= size => Err(beyond()),
        Wanted::From(start, end) => Ok(Some((start, end.unwrap_or(u64::MAX).min(size - 1)))),
    }
}

enum Wanted {
    From(u64, Option<u64>),
    Last(u64),
}

/// The one range of bytes that a header asks for.
fn single(header: &str) -> Option<Wanted> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // An empty element of a list counts for nothing: RFC 9110, section 5.6.1.
    let mut specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let (spec, None) = (specs.next()?, specs.next()) else { return None };
    let (start, end) = spec.split_once('-')?;
    match (start, end) {
        ("", n) => Some(Wanted::Last(number(n)?)),
        (start, "") => Some(Wanted::From(number(start)?, None)),
        (start, end) => {
            let (start, end) = (number(start)?, number(end)?);
            (start <= end).then_some(Wanted::From(start, Some(end)))
        }
    }
}

/// Digits; a number that is too large is as good as the largest.
fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().unwrap_or(u64::MAX))
}

/// The `Content-Range` of a 206.
pub fn partial((start, end): (u64, u64), size: u64) -> String {
    format!("bytes {start}-{end}/{size}")
}

/// The `Content-Range` of a 416 on a blob.
pub fn unsatisfied(size: u64) -> String {
    format!("bytes */{size}")
}

/// The first and the last byte of a chunk, from its `Content-Range`: `a-b`; `bytes a-b/*`, as some clients send, is taken too.
///
/// # Errors
/// `BLOB_UPLOAD_INVALID` (400) for what is no range, and for one that ends before it begins.
pub fn content_range(header: &str) -> Result<(u64, u64), Failure> {
    let bad = || {
        Failure::new(
            Code::BlobUploadInvalid,
            format!(
                "{:?} is not the Content-Range of a chunk: \"<first byte>-<last byte>\" is wanted",
                shorten(header)
            ),
        )
    };
    let text = header.trim();
    let text = match text.get(..5) {
        Some(unit) if unit.eq_ignore_ascii_case("bytes") => text[5..].trim_start_matches([' ', '=']),
        _ => text,
    };
    let (range, total) = text.split_once('/').unwrap_or((text, "*"));
    let exact = |digits: &str| number(digits).filter(|n| *n < u64::MAX).ok_or_else(bad);
    if total != "*" {
        exact(total)?;
    }
    let (start, end) = range.split_once('-').ok_or_else(bad)?;
    let (start, end) = (exact(start)?, exact(end)?);
    if start > end {
        return Err(bad());
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        const WHOLE: Option<(u64, u64)> = None;
        for (header, size, expected) in [
            ("bytes=0-0", 1, Some((0, 0))),
            ("bytes=0-0", 10, Some((0, 0))),
            ("bytes=2-4", 10, Some((2, 4))),
            ("bytes=9-9", 10, Some((9, 9))),
            ("bytes=2-", 10, Some((2, 9))),
            ("bytes=0-99", 10, Some((0, 9))),
            ("bytes=0-99999999999999999999999", 10, Some((0, 9))),
            ("bytes=-3", 10, Some((7, 9))),
            ("bytes=-10", 10, Some((0, 9))),
            ("bytes=-11", 10, Some((0, 9))),
            ("bytes=-99999999999999999999999", 10, Some((0, 9))),
            ("BYTES=1-2", 10, Some((1, 2))),
            ("bytes= 1-2 ", 10, Some((1, 2))),
            ("bytes=,1-2,", 10, Some((1, 2))),
            ("bytes=0-", u64::MAX, Some((0, u64::MAX - 1))),
            ("bytes=-5", 0, WHOLE),
            ("bytes=1-2,4-5", 10, WHOLE),
            ("bytes=4-2", 10, WHOLE),
            ("bytes=", 10, WHOLE),
            ("bytes=-", 10, WHOLE),
            ("bytes=a-b", 10, WHOLE),
            ("bytes=1", 10, WHOLE),
            ("bytes=1--2", 10, WHOLE),
            ("bytes=--2", 10, WHOLE),
            ("bytes=+1-2", 10, WHOLE),
            ("bytes=1 - 2", 10, WHOLE),
            ("bytes 1-2", 10, WHOLE),
            ("items=1-2", 10, WHOLE),
            ("", 10, WHOLE),
        ] {
            assert_eq!(blob_range(Some(header), size), Ok(expected), "{header} of {size}");
        }
        assert_eq!(blob_range(None, 10), Ok(None));
    }

    #[test]
    fn a_range_past_the_end_is_416() {
        for (header, size) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=99999999999999999999999-", 10),
            ("bytes=0-", 0),
            ("bytes=0-0", 0),
            ("bytes=-0", 10),
            ("bytes=-0", 0),
        ] {
            let failure = blob_range(Some(header), size).unwrap_err();
            assert_eq!((failure.code, failure.status), (Code::RangeInvalid, 416), "{header} of {size}");
        }
        assert_eq!(unsatisfied(10), "bytes */10");
        assert_eq!(partial((2, 4), 10), "bytes 2-4/10");
    }

    #[test]
    fn a_chunk_says_its_first_and_last_byte() {
        for (header, expected) in [
            ("0-0", (0, 0)),
            ("5-9", (5, 9)),
            (" 5-9 ", (5, 9)),
            ("bytes 5-9/*", (5, 9)),
            ("bytes=5-9", (5, 9)),
            ("Bytes 5-9/10", (5, 9)),
        ] {
            assert_eq!(content_range(header), Ok(expected), "{header}");
        }
        for bad in
            ["", "-", "5", "5-", "-5", "9-5", "a-b", "0-18446744073709551615", "1-2/x", "1-2/", "é-1", "bytes", "0--1"]
        {
            let failure = content_range(bad).unwrap_err();
            assert_eq!((failure.code, failure.status), (Code::BlobUploadInvalid, 400), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_granted_range_is_within_the_blob(
            header in "bytes=([0-9]{0,3}|[0-9]{18,21})-[0-9]{0,3}|[bytes=0-9, -]{0,20}|\\PC*",
            size in prop_oneof![0..200u64, any::<u64>()],
        ) {
            if let Ok(Some((start, end))) = blob_range(Some(&header), size) {
                prop_assert!(start <= end && end < size);
            }
        }

        #[test]
        fn a_chunks_range_comes_back(start in 0..u64::MAX, length in 0..u64::MAX) {
            let end = start.saturating_add(length).min(u64::MAX - 1);
            prop_assert_eq!(content_range(&format!("{start}-{end}")), Ok((start, end)));
            prop_assert_eq!(content_range(&format!("bytes {start}-{end}/*")), Ok((start, end)));
        }

        #[test]
        fn any_text_is_a_chunks_range_or_an_error(text in "(bytes[ =])?[0-9]{0,3}-[0-9]{0,3}(/.*)?|\\PC*") {
            if let Ok((start, end)) = content_range(&text) {
                prop_assert!(start <= end);
            }
        }
    }
}
