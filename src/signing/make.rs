//! Signing a model that lies on a disk, and verifying one.
//!
//! Owns: [`sign`], [`verify`], and the one pass over a source that is not promoted. Promises: what is hashed is what lies there from
//! the first byte to the last, or an error that it changed; what is signed is what a promotion would take along, and what it
//! leaves out is named in the statement, so that `model_signing` leaves it out too; the rules of a verification are those of a
//! promotion ([`check`]). Leaves out: where keys and signatures are read from and written to.

use super::bundle::{pae, write};
use super::check::{Circle, NamedKey, Over, Trust, check};
use super::statement::{FileDigest, Resource, SINGLE, Statement};
use super::{IN_FOLDER, PrivateKey, PublicKey, SignatureFile, Signed};
use crate::artifact::{FileEntry, Layout};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::format::finding::{Finding, Findings};
use crate::source::{Source, SourceFile, Taken};
use crate::task::{Phase, Progress, Task};
use serde::Serialize;
use sha2::Digest as _;
use std::os::unix::fs::FileExt;

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// What `model_signing` never looks at, and says so in what it signs.
const GIT: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// Signs every file of `source` that a promotion would take along; `model` is what the statement calls it. The bytes of a bundle.
///
/// # Errors
/// `SourceChanged`, `Cancelled`, or what is wrong with reading it.
pub fn sign(source: &Source, model: &str, key: &PrivateKey, task: &Task<'_>) -> Result<Vec<u8>> {
    let single = source.shape == Layout::File;
    let resource = |file: FileEntry| {
        let name = if single { SINGLE.to_owned() } else { file.path.as_str().to_owned() };
        Resource { name, digest: FileDigest::Sha256(file.sha256) }
    };
    let resources = hash(source, task)?.into_iter().map(resource).collect();
    let mut left_out: Vec<String> = GIT.map(str::to_owned).into();
    if source.shape == Layout::Folder {
        left_out.push(IN_FOLDER.to_owned());
        left_out.extend(source.skipped.iter().filter(|name| !GIT.contains(&name.as_str())).cloned());
    }
    let payload = Statement::write(model, resources, &left_out)?;
    Ok(write(&key.public().id(), &payload, &key.sign(&pae(&payload))))
}

/// What a verification found.
#[derive(Debug, Serialize)]
pub struct SignatureReport {
    /// Who signed, when the signature holds over these very files; else there are findings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Names that were not looked at, because no promotion takes them along.
    pub skipped: Vec<String>,
}

/// Holds a signature against a source, by the rules of a promotion under a policy that requires `key`, which is called `signer`.
///
/// # Errors
/// What is wrong with reading the source. A signature that does not hold is no error here.
pub fn verify(
    source: &Source,
    signature: &SignatureFile,
    signer: &str,
    key: PublicKey,
    task: &Task<'_>,
) -> Result<SignatureReport> {
    let circle =
        Circle { names: "**".to_owned(), keys: vec![NamedKey { name: signer.to_owned(), key }], required: true };
    let whole = &source.files.first().ok_or_else(|| Error::new(ErrorKind::Refused, "it holds no files"))?.path;
    let trust = Trust(vec![&circle]);
    let mut findings = Findings::new();
    // What the signature says by itself is known before gigabytes are read.
    check(&trust, Some(signature), Over { whole, files: None }, &mut findings);
    let mut signed = None;
    if findings.list().is_empty() {
        let files = hash(source, task)?;
        let over = Over { whole, files: Some((source.shape, &files)) };
        signed = check(&trust, Some(signature), over, &mut findings);
    }
    let findings = findings.list().iter().filter(|f| f.rule != super::REQUIRED.id).cloned().collect();
    Ok(SignatureReport { signed, findings, skipped: source.skipped.clone() })
}

/// Every file's digests, each byte read once.
fn hash(source: &Source, task: &Task<'_>) -> Result<Vec<FileEntry>> {
    let mut meter = Progress { phase: Phase::Verify, done: 0, total: source.size_bytes() };
    let mut buffer = vec![0; BUFFER];
    source.files.iter().map(|file| hash_file(file, &mut buffer, &mut meter, task)).collect()
}

fn hash_file(source: &SourceFile, buffer: &mut [u8], meter: &mut Progress, task: &Task<'_>) -> Result<FileEntry> {
    let failed = |e| Error::io(format_args!("reading {}", source.path), e);
    let file = source.open()?;
    let (mut sha256, mut blake3) = (sha2::Sha256::new(), blake3::Hasher::new());
    let mut size_bytes: u64 = 0;
    loop {
        task.step(*meter)?;
        let n = match file.read_at(buffer, size_bytes) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(e)),
        };
        sha256.update(&buffer[..n]);
        blake3.update(&buffer[..n]);
        size_bytes += n as u64;
        meter.done += n as u64;
        // One that grows has no end.
        if size_bytes > source.size() {
            return Err(source.changed());
        }
    }
    source.check_unchanged(&file, Taken::Copied)?;
    if size_bytes != source.size() {
        return Err(source.changed());
    }
    Ok(FileEntry {
        path: source.path.clone(),
        size_bytes,
        sha256: Sha256Digest::from_bytes(sha256.finalize().into()),
        blake3: Blake3Digest::from_bytes(*blake3.finalize().as_bytes()),
    })
}
