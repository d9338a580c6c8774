//! Whether a signature is one that is trusted, over these very files.
//!
//! Owns: [`check`], the one place where a [`Signed`] is made. Promises: in this order, and none skipped: the document is understood; a key
//! that is trusted with the name made its signature; every file here is signed, by its name and its digest, and every signed file is
//! here; whoever is required signed. What fails is a finding, and then there is no proof. Leaves out: which keys those are
//! (`policy::signers`), hashing the files (`ingest`).
//!
//! What a promotion never takes along is not compared, whether it is signed or not: hidden names, and `model.sig` itself. Everything
//! else is, whatever the signer's program was told to ignore.

use super::bundle::{Blob, Document, Envelope};
use super::statement::{FileDigest, Resource, SINGLE, Statement};
use super::{
    FILES, Flaw, IN_FOLDER, INVALID, Kind, PublicKey, REQUIRED, SignatureFile, Signed, UNCHECKED, UNTRUSTED, named,
};
use crate::artifact::{FileEntry, Layout};
use crate::digest::Sha256Digest;
use crate::format::finding::{Findings, Place};
use crate::name::RelPath;
use std::collections::{HashMap, HashSet};

/// A key, and what the policy calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedKey {
    pub(crate) name: String,
    pub(crate) key: PublicKey,
}

/// Keys that are trusted with some names, one of which must have signed where it is required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Circle {
    /// The names, as the policy writes them.
    pub(crate) names: String,
    pub(crate) keys: Vec<NamedKey>,
    pub(crate) required: bool,
}

impl Circle {
    fn holds(&self, key: &PublicKey) -> bool {
        self.keys.iter().any(|named| named.key == *key)
    }

    fn key_names(&self) -> String {
        let names: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
        names.join(" or ")
    }
}

/// Who is trusted with a name.
#[derive(Debug)]
pub(crate) struct Trust<'a>(pub(crate) Vec<&'a Circle>);

impl<'a> Trust<'a> {
    fn keys(&self) -> impl Iterator<Item = &'a NamedKey> {
        self.0.iter().flat_map(|circle| &circle.keys)
    }

    /// For a message.
    fn list(&self) -> String {
        let keys: Vec<String> =
            self.keys().map(|named| format!("{} ({})", named.name, &named.key.id().to_hex()[..12])).collect();
        keys.join(", ")
    }
}

/// What a signature is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Over<'a> {
    /// The first file: what is said of all is said of it.
    pub(crate) whole: &'a RelPath,
    /// Their digests; none before they are hashed, when only what the document says by itself can be refused.
    pub(crate) files: Option<(Layout, &'a [FileEntry])>,
}

/// Who made a signature.
enum Maker<'a> {
    Trusted(&'a NamedKey),
    /// No key is trusted with the name, so nobody asks.
    Unasked,
    /// Only the file's digest will tell.
    Unknown,
}

/// Holds a signature against the files and whoever is trusted; what is wrong is a finding. The proof when nothing is, and somebody
/// trusted signed.
pub(crate) fn check(
    trust: &Trust<'_>,
    signature: Option<&SignatureFile>,
    over: Over<'_>,
    findings: &mut Findings,
) -> Option<Signed> {
    let mut flawed = false;
    let mut add = |file: &RelPath, flaw: Flaw| {
        flawed = true;
        findings.add(file, flaw.rule, Place::whole(), flaw.message);
    };
    let mut made: Option<(Kind, Maker<'_>)> = None;
    if let Some(file) = signature {
        let about = |flaw: Flaw| Flaw { message: format!("the signature {}: {}", file.name(), flaw.message), ..flaw };
        match Document::parse(file.bytes())
            .and_then(|document| maker(trust, &document, over).map(|maker| (document, maker)))
        {
            Err(flaw) => add(over.whole, about(flaw)),
            Ok((document, maker)) => {
                let (kind, differences) = match &document {
                    Document::Oms(envelope) => (Kind::Oms, differences(&envelope.statement, over)),
                    Document::Blob(_) => (Kind::Cosign, Vec::new()),
                };
                for (file, why) in differences {
                    add(file.unwrap_or(over.whole), about(Flaw { rule: &FILES, message: why }));
                }
                made = Some((kind, maker));
            }
        }
    }
    let (kind, key) = match (flawed, made) {
        (false, Some((kind, Maker::Trusted(key)))) => (kind, key),
        // Not before the files are hashed.
        (false, Some((_, Maker::Unknown))) => return None,
        (false, Some((_, Maker::Unasked))) => {
            let why = "nobody is trusted with this name, so the signature says nothing: name its key in the policy's `signers`";
            findings.add(over.whole, &UNCHECKED, Place::whole(), why);
            return None;
        }
        _ => {
            for circle in trust.0.iter().filter(|circle| circle.required) {
                findings.add(over.whole, &REQUIRED, Place::whole(), wanted(circle, signature));
            }
            return None;
        }
    };
    let mut unmet = trust.0.iter().filter(|circle| circle.required && !circle.holds(&key.key)).peekable();
    if unmet.peek().is_some() {
        unmet.for_each(|circle| findings.add(over.whole, &REQUIRED, Place::whole(), wanted(circle, signature)));
        return None;
    }
    over.files?;
    let NamedKey { name, key } = key;
    Some(Signed { signer: name.clone(), key: key.id(), kind, algorithm: key.algorithm().as_str() })
}

fn wanted(circle: &Circle, signature: Option<&SignatureFile>) -> String {
    let (names, keys) = (named(&circle.names), circle.key_names());
    match signature {
        None => format!(
            "names like {names} must be signed by {keys}, and there is no signature: put {IN_FOLDER} into the folder or FILE.sig \
             beside the file, or say where it is"
        ),
        Some(file) => format!("names like {names} must be signed by {keys}, and {} is no such signature", file.name()),
    }
}

fn maker<'a>(trust: &Trust<'a>, document: &Document, over: Over<'_>) -> Result<Maker<'a>, Flaw> {
    match document {
        Document::Oms(envelope) => {
            let Envelope { hint, signed, signature, .. } = envelope;
            one_of(trust, hint.as_deref(), |key| key.verify(signed, signature).is_ok())
        }
        Document::Blob(blob) => blob_maker(trust, blob, over),
    }
}

fn blob_maker<'a>(trust: &Trust<'a>, blob: &Blob, over: Over<'_>) -> Result<Maker<'a>, Flaw> {
    let Some((layout, files)) = over.files else { return Ok(Maker::Unknown) };
    let files_flaw = |message| Err(Flaw { rule: &FILES, message });
    let [file] = files else {
        return files_flaw("it is over one file, and there are several: sign them with `securereg sign`".to_owned());
    };
    if layout != Layout::File {
        return files_flaw("it is over a single file, and this is a folder: sign it with `securereg sign`".to_owned());
    }
    if let Some(digest) = blob.digest.filter(|digest| *digest != file.sha256) {
        return files_flaw(other_bytes(file.path.as_str(), &FileDigest::Sha256(digest), &file.sha256));
    }
    one_of(trust, blob.hint.as_deref(), |key| key.verify_sha256(&file.sha256, &blob.signature).is_ok())
}

/// The trusted key that made a signature. A hint says which it is; without one that is understood, each is tried.
fn one_of<'a>(trust: &Trust<'a>, hint: Option<&str>, made: impl Fn(&PublicKey) -> bool) -> Result<Maker<'a>, Flaw> {
    if trust.keys().next().is_none() {
        return Ok(Maker::Unasked);
    }
    // As model_signing and we write it. Others write other things.
    let Some(id) = hint.and_then(|hint| hint.parse::<Sha256Digest>().ok()) else {
        return trust.keys().find(|named| made(&named.key)).map(Maker::Trusted).ok_or_else(|| Flaw {
            rule: &INVALID,
            message: format!(
                "it holds under none of the keys that are trusted here, {}: another key made it, or over other bytes",
                trust.list()
            ),
        });
    };
    let Some(key) = trust.keys().find(|named| named.key.id() == id) else {
        let message = format!("the key {id} made it, which is not trusted here: {} are", trust.list());
        return Err(Flaw { rule: &UNTRUSTED, message });
    };
    if !made(&key.key) {
        let message = format!("it does not hold under {}, the key it names: what was signed was altered", key.name);
        return Err(Flaw { rule: &INVALID, message });
    }
    Ok(Maker::Trusted(key))
}

/// A file that is not as it was signed, and why; none where it is not here.
type Difference<'a> = (Option<&'a RelPath>, String);

fn differences<'a>(statement: &Statement, over: Over<'a>) -> Vec<Difference<'a>> {
    let Some((layout, files)) = over.files else { return Vec::new() };
    let by_name: HashMap<&str, &FileEntry> = files.iter().map(|f| (f.path.as_str(), f)).collect();
    let mut different = Vec::new();
    let mut signed: HashSet<&str> = HashSet::new();
    for Resource { name, digest } in &statement.resources {
        let single = name == SINGLE && layout == Layout::File;
        let file = if single { files.first() } else { by_name.get(name.as_str()).copied() };
        let Some(file) = file else {
            if !is_left_out(name) {
                different.push((
                    None,
                    format!("{} is signed and not here: it is missing, or has another name", named(name)),
                ));
            }
            continue;
        };
        if !signed.insert(file.path.as_str()) {
            different.push((Some(&file.path), format!("{} is signed twice, under two names", file.path)));
        }
        let same = match digest {
            FileDigest::Sha256(digest) => *digest == file.sha256,
            FileDigest::Blake3(digest) => *digest == file.blake3,
        };
        if !same {
            different.push((Some(&file.path), other_bytes(file.path.as_str(), digest, &file.sha256)));
        }
    }
    for file in files.iter().filter(|file| !signed.contains(file.path.as_str())) {
        different.push((Some(&file.path), format!("{} is here and not signed: take it away, or sign anew", file.path)));
    }
    different
}

fn other_bytes(name: &str, signed: &FileDigest, here: &Sha256Digest) -> String {
    format!("{name} has other bytes than were signed: signed is {signed}, here is SHA-256 {here}")
}

/// Names that no promotion takes along.
fn is_left_out(name: &str) -> bool {
    name == IN_FOLDER || (name != SINGLE && name.split('/').any(|component| component.starts_with('.')))
}
