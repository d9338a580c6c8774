//! What fuzzing runs: a signature file of any bytes, over files that some of them name.
//!
//! Owns: what must hold whatever the bytes. Promises: compiled only under `--cfg fuzzing`. Leaves out: the table of targets
//! (`format::fuzzing`).

use super::bundle::{Document, pae};
use super::check::{Circle, NamedKey, Over, Trust, check};
use super::statement::Statement;
use super::{PrivateKey, PublicKey, SignatureFile};
use crate::artifact::{FileEntry, Layout};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::format::finding::Findings;

const KEY: &[u8] = include_bytes!("../../tests/data/signing/p256.pub");

/// Reads `bytes` as a signature file, as a statement, and as keys; what is found is handed back.
pub(crate) fn run(bytes: &[u8], findings: &mut Findings) {
    let entry = |path: &str, bytes: &[u8]| FileEntry {
        path: path.parse().expect("a path"),
        size_bytes: bytes.len() as u64,
        sha256: Sha256Digest::of(bytes),
        blake3: Blake3Digest::from_bytes([0; 32]),
    };
    let files = [entry("a.bin", b"weights\n"), entry("sub/config.json", b"{}\n")];
    let key = NamedKey { name: "lab".to_owned(), key: PublicKey::from_pem(KEY).expect("a key") };
    let trusting = [Circle { names: "**".to_owned(), keys: vec![key], required: true }];
    let Ok(signature) = SignatureFile::new("model.sig", bytes.to_vec()) else { return };
    for (layout, files) in [(Layout::Folder, &files[..]), (Layout::File, &files[..1])] {
        let over = Over { whole: &files[0].path, files: Some((layout, files)) };
        let signed = check(&Trust(trusting.iter().collect()), Some(&signature), over, findings);
        if let Some(signed) = signed {
            let document = Document::parse(bytes).expect("read once already");
            assert!(was_signed(&document), "{signed:?}");
        }
    }
    if let Ok(Document::Oms(envelope)) = Document::parse(bytes) {
        // What was read can be written, and is then read as the same.
        let statement = &envelope.statement;
        let again = Statement::write(&statement.model, statement.resources.clone(), &[]).expect("written");
        let again = Statement::parse(&again).expect("read");
        assert_eq!(again.resources.len(), statement.resources.len());
        assert!(envelope.signed.len() > pae(b"").len());
    }
    if let Ok(statement) = Statement::parse(bytes) {
        assert!(!statement.resources.is_empty());
    }
    if let Ok(key) = PublicKey::from_pem(bytes) {
        assert_eq!(PublicKey::from_pem(key.to_pem().as_bytes()).expect("its own PEM"), key);
    }
    if let Ok(key) = PrivateKey::from_pem(bytes) {
        let signature = key.sign(bytes);
        assert!(key.public().verify(bytes, &signature).is_ok());
    }
}

/// What the key signed in its life, as far as it is in the corpus: nothing else can be made good.
fn was_signed(document: &Document) -> bool {
    let seeds = [
        include_bytes!("../../tests/data/signing/folder-p256.sig").as_slice(),
        include_bytes!("../../tests/data/signing/file-p256.sig"),
    ];
    match document {
        Document::Oms(envelope) => seeds
            .iter()
            .any(|seed| matches!(Document::parse(seed), Ok(Document::Oms(known)) if known.signed == envelope.signed)),
        Document::Blob(_) => true,
    }
}
