//! An upload session as it lies in the bucket, so that any instance goes on with it.
//!
//! Owns: its document, the sizes of parts, and who may go on. Promises: a document that is not whole is refused; of two that go on with
//! one session the slower is told, and changes nothing. Leaves out: the bytes (`filling`).
//!
//! ```text
//! uploads/<repository>/_/<id>     this document
//! data/<id>/joined                its parts, which become one object without being copied
//! data/<id>/whole                 all of it, when it was too small for parts and came with the last request
//! data/<id>/tail-<n>              what is too small to be a part, until more comes; when nothing does, this is the blob's object
//! ```

use super::super::failure::{Code, Failure};
use super::super::storage::Outcome;
use super::bucket::{Bucket, Version, When, Written, damaged};
use axum::body::Bytes;
use securereg::Sha256Stream;
use securereg_oci::{Digest, Repository};
use serde::{Deserialize, Serialize};

/// What S3 takes as a part, unless it is the last.
const LEAST_PART: u64 = 5 << 20;
/// The first parts' size; each thousand is twice the size of the one before.
const FIRST_PART: u64 = 8 << 20;
const THOUSAND: u32 = 1000;
/// S3 takes no more.
pub(super) const MAX_PARTS: usize = 10_000;
/// No object is larger.
pub(super) const MAX_OBJECT: u64 = 5 << 40;

/// The size of the part `index`.
pub(super) fn part_size(index: usize) -> u64 {
    let thousands = u32::try_from(index).unwrap_or(u32::MAX) / THOUSAND;
    // Below 10,000 parts this is at most 4 GiB; S3 takes 5.
    FIRST_PART << thousands.min(9)
}

/// From this size on what is left is a part itself: so chunks of a client that are smaller than parts cost no more parts than there are.
pub(super) fn least_part(index: usize) -> u64 {
    (part_size(index) / 8 * 5).max(LEAST_PART)
}

/// What is too small to be a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    /// New with each writing: two documents are never the same.
    stamp: String,
    /// SHA-256 of all bytes so far, not finished: hex of what `Sha256Stream::save` gives.
    sha256: String,
    /// S3's name of the upload that has the parts.
    pub(super) upload: Option<String>,
    pub(super) parts: Vec<String>,
    /// Bytes of the parts.
    pub(super) in_parts: u64,
    pub(super) tail: Option<Tail>,
    /// Tails so far, so that none is written over.
    pub(super) tails: u64,
    /// The blob it is becoming: from here on its record may be there.
    pub(super) finishing: Option<String>,
}

impl Session {
    pub(super) fn new() -> Session {
        Session {
            stamp: String::new(),
            sha256: hex(&Sha256Stream::new().save()),
            upload: None,
            parts: Vec::new(),
            in_parts: 0,
            tail: None,
            tails: 0,
            finishing: None,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.in_parts.saturating_add(self.tail.as_ref().map_or(0, |tail| tail.size))
    }

    /// The hash of the bytes so far.
    pub(super) fn stream(&self) -> Outcome<Sha256Stream> {
        let saved = unhex(&self.sha256).and_then(|bytes| <[u8; Sha256Stream::SAVED]>::try_from(bytes).ok());
        let stream = saved.map(|saved| Sha256Stream::restore(&saved));
        stream.filter(|stream| stream.taken() == self.size()).ok_or_else(broken)
    }

    pub(super) fn keep(&mut self, stream: &Sha256Stream) {
        self.sha256 = hex(&stream.save());
    }

    fn parse(bytes: &[u8]) -> Outcome<Session> {
        let session: Session = serde_json::from_slice(bytes).map_err(|_| broken())?;
        let tail = session.tail.as_ref().map_or(0, |tail| tail.size);
        let fits = session.parts.len() <= MAX_PARTS
            && session.in_parts <= MAX_OBJECT
            && tail <= part_size(session.parts.len());
        let parted = session.parts.is_empty() || session.upload.is_some();
        if !fits || !parted || session.parts.is_empty() != (session.in_parts == 0) {
            return Err(broken());
        }
        session.stream()?;
        Ok(session)
    }
}

/// Where a session lies.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) repository: Repository,
    pub(super) id: String,
}

impl Place {
    /// None of a name that is no session's.
    pub(super) fn new(repository: &Repository, id: &str) -> Option<Place> {
        let good = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        good.then(|| Place { repository: repository.clone(), id: id.to_owned() })
    }

    /// Of a key that was listed.
    pub(super) fn of_key(key: &str) -> Option<Place> {
        let (repository, id) = key.strip_prefix("uploads/")?.rsplit_once("/_/")?;
        Place::new(&repository.parse().ok()?, id)
    }

    /// What keys of a repository's sessions begin with.
    pub(super) fn all_of(repository: &Repository) -> String {
        format!("uploads/{repository}/_/")
    }

    pub(super) fn key(&self) -> String {
        format!("{}{}", Place::all_of(&self.repository), self.id)
    }

    pub(super) fn joined(&self) -> String {
        format!("data/{}/joined", self.id)
    }

    pub(super) fn whole(&self) -> String {
        format!("data/{}/whole", self.id)
    }

    pub(super) fn tail(&self, number: u64) -> String {
        format!("data/{}/tail-{number}", self.id)
    }

    /// Whether a blob's object came from here.
    pub(super) fn has(&self, object: &str) -> bool {
        object
            .strip_prefix("data/")
            .and_then(|rest| rest.strip_prefix(&*self.id))
            .is_some_and(|rest| rest.starts_with('/'))
    }

    pub(super) fn unknown(&self) -> Failure {
        unknown(&self.repository)
    }

    /// The session as it is now.
    pub(super) async fn load(&self, bucket: &Bucket) -> Outcome<(Session, Version)> {
        let (bytes, version) = bucket.get(&self.key()).await?.ok_or_else(|| self.unknown())?;
        Ok((Session::parse(&bytes)?, version))
    }

    /// Writes the session, if it still is as it was.
    pub(super) async fn save(
        &self,
        bucket: &Bucket,
        session: &mut Session,
        before: Option<&Version>,
    ) -> Outcome<Version> {
        session.stamp = super::random()?;
        let bytes = serde_json::to_vec(session).map_err(|_| damaged("a session cannot be written"))?;
        let when = before.map_or(When::New, When::Is);
        match bucket.put(&self.key(), Bytes::from(bytes), when).await? {
            Written::Now(version) => Ok(version),
            Written::Not => Err(taken(&self.repository)),
        }
    }
}

pub(super) fn unknown(repository: &Repository) -> Failure {
    let why = format!("{repository} has no such upload: it was finished, cancelled, or has expired");
    Failure::new(Code::BlobUploadUnknown, why).with_status(404)
}

pub(super) fn taken(repository: &Repository) -> Failure {
    let why = format!("another request is writing this upload to {repository}: wait for it, or begin a new one");
    Failure::new(Code::BlobUploadInvalid, why).with_status(409)
}

fn broken() -> Failure {
    damaged("the session's document in the bucket is damaged: begin a new upload")
}

/// The digest a session is becoming.
pub(super) fn finishing(session: &Session) -> Option<Digest> {
    session.finishing.as_ref().and_then(|text| text.parse().ok())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_s3_takes_and_enough_for_the_largest_object() {
        let mut sum = 0u64;
        for index in 0..MAX_PARTS {
            let size = part_size(index);
            assert!((LEAST_PART..=5 << 30).contains(&size) && least_part(index) <= size, "{index}");
            assert!(least_part(index) >= LEAST_PART);
            sum += size;
        }
        assert!(sum >= MAX_OBJECT, "{sum}");
        assert_eq!(
            (part_size(0), part_size(999), part_size(1000), part_size(usize::MAX)),
            (8 << 20, 8 << 20, 16 << 20, 4 << 30)
        );
        assert_eq!((least_part(0), least_part(1000)), (5 << 20, 10 << 20));
    }

    #[test]
    fn a_session_comes_back_as_it_was_and_nothing_else_is_one() {
        let mut session = Session::new();
        assert_eq!(Session::parse(&serde_json::to_vec(&session).expect("json")).expect("a session"), session);
        let mut stream = Sha256Stream::new();
        stream.update(&[7; 100]);
        session.keep(&stream);
        session.tail = Some(Tail { number: 1, size: 60, sha256: "x".into() });
        (session.upload, session.parts, session.in_parts) = (Some("u".into()), vec!["p".into()], 40);
        let good = serde_json::to_value(&session).expect("json");
        let back = Session::parse(good.to_string().as_bytes()).expect("a session");
        assert_eq!((back.size(), back.stream().expect("a hash").save()), (100, stream.save()));
        for (key, value) in [
            ("sha256", "00".into()),
            ("sha256", "x".into()),
            ("in_parts", 41.into()),
            ("in_parts", u64::MAX.into()),
            ("parts", serde_json::json!([])),
            ("upload", serde_json::Value::Null),
            ("tail", serde_json::Value::Null),
            ("more", 1.into()),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(Session::parse(bad.to_string().as_bytes()).is_err(), "{key}");
        }
        assert!(Session::parse(b"").is_err());
    }

    #[test]
    fn a_key_is_that_of_one_session() {
        let id = "0123456789abcdef0123456789abcdef";
        let repository: Repository = "a/b".parse().expect("a name");
        let place = Place::new(&repository, id).expect("an id");
        let back = Place::of_key(&place.key()).expect("a key");
        assert_eq!((back.repository, back.id), (repository.clone(), id.to_owned()));
        assert!(place.has(&place.whole()) && place.has(&place.tail(3)) && !place.has(&format!("data/{id}0/whole")));
        for bad in ["", "x", "../0123456789abcdef0123456789abc", "0123456789ABCDEF0123456789abcdef"] {
            assert!(Place::new(&repository, bad).is_none(), "{bad}");
        }
        for bad in ["uploads/a", "uploads/A/_/0123456789abcdef0123456789abcdef", "data/x"] {
            assert!(Place::of_key(bad).is_none(), "{bad}");
        }
    }
}
