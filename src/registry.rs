//! stub skeleton (the lead is replacing it)
#![allow(missing_docs, unused_variables, clippy::todo)]
use crate::*;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub struct Catalog;
impl Catalog {
    pub fn generation(&self) -> u64 { todo!() }
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn artifacts(&self) -> impl Iterator<Item = &Arc<Artifact>> { std::iter::empty() }
    pub fn artifact(&self, name: &ModelName) -> Option<&Arc<Artifact>> { todo!() }
}
#[derive(Clone)]
pub struct Registry;
impl Registry {
    pub fn open(root: &Path) -> Result<Registry> { todo!() }
    pub fn open_or_create(root: &Path) -> Result<Registry> { todo!() }
    pub fn default_root() -> PathBuf { todo!() }
    pub fn default_mount() -> PathBuf { todo!() }
    pub fn root(&self) -> &Path { todo!() }
    pub fn staging(&self) -> PathBuf { todo!() }
    pub fn catalog(&self) -> Result<Arc<Catalog>> { todo!() }
    pub fn change_fd(&self) -> BorrowedFd<'_> { todo!() }
    pub fn promote(&self, request: PromoteRequest, source: Source, actor: &Actor, task: &Task<'_>) -> Result<Promotion> { todo!() }
    pub fn verify(&self, name: &ModelName, actor: &Actor, task: &Task<'_>) -> Result<VerifyReport> { todo!() }
    pub fn verify_all(&self, actor: &Actor, task: &Task<'_>) -> Result<VerifyAll> { todo!() }
    pub fn last_verify_all(&self) -> Result<Option<VerifyAll>> { todo!() }
    pub fn quarantine(&self, name: &ModelName, reason: &str, incident_id: Option<&str>, actor: &Actor) -> Result<Arc<Artifact>> { todo!() }
    pub fn release(&self, name: &ModelName, reason: &str, actor: &Actor, task: &Task<'_>) -> Result<VerifyReport> { todo!() }
    pub fn delete(&self, name: &ModelName, actor: &Actor) -> Result<()> { todo!() }
    pub fn open_file(&self, name: &ModelName, path: &RelPath, mode: ReadMode) -> Result<VerifiedFile> { todo!() }
    pub fn open_blob(&self, sha256: &Sha256Digest, mode: ReadMode) -> Result<VerifiedFile> { todo!() }
    pub fn opens_at_once(&self, sha256: &Sha256Digest) -> bool { todo!() }
    pub fn recheck_stale(&self, task: &Task<'_>) -> Result<()> { todo!() }
    pub fn describe(&self, artifact: &Artifact) -> Result<serde_json::Value> { todo!() }
    pub fn path(&self, name: &ModelName) -> Result<PathBuf> { todo!() }
    pub fn record_mount(&self, mountpoint: &Path) -> Result<MountGuard> { todo!() }
    pub fn mounts(&self) -> Result<Vec<MountRecord>> { todo!() }
    pub fn audit_log(&self) -> Result<Vec<AuditLine>> { todo!() }
    pub fn audit_verify(&self) -> Result<AuditSummary> { todo!() }
    pub fn audit_refusal(&self, name: &str, why: &str, actor: &Actor) -> Result<()> { todo!() }
}
#[derive(Debug, Clone)]
pub struct PromoteRequest { pub name: ModelName, pub filename: Option<RelPath>, pub sha256: Option<Sha256Digest>, pub size_bytes: Option<u64>,
    pub format: Option<Format>, pub source: String, pub transfer: Transfer, pub evidence: serde_json::Map<String, serde_json::Value> }
impl PromoteRequest { pub fn new(name: ModelName) -> Self { todo!() } }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer { Copy, Move }
#[derive(Debug, Clone)]
pub struct Promotion { pub artifact: Arc<Artifact>, pub outcome: Outcome, pub method: Method, pub skipped: Vec<String> }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome { Promoted, AlreadyThere, Moved }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method { Copied, Reflinked, Adopted, Shared }
#[derive(Debug)]
pub struct Source;
impl Source {
    pub fn open(path: &Path) -> Result<Source> { todo!() }
    pub fn open_beneath(folder: &Path, path: &Path) -> Result<Source> { todo!() }
}
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct VerifyReport { pub name: ModelName, pub sha256: Sha256Digest, pub status: VerifyStatus, pub error: Option<String>, pub expected: Option<String>, pub actual: Option<String>, pub restored: bool, pub files: usize, pub bytes: u64 }
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyStatus { Verified, Failed, Unreadable }
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct VerifyAll { pub models: Vec<VerifyReport>, pub checked: usize, pub verified_at: String }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode { Cached, Direct }
#[derive(Debug)]
pub struct VerifiedFile;
impl VerifiedFile {
    pub fn len(&self) -> u64 { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn sha256(&self) -> &Sha256Digest { todo!() }
    pub fn blake3(&self) -> &Blake3Digest { todo!() }
    pub fn read<'b>(&self, offset: u64, len: usize, buf: &'b mut ReadBuf) -> Result<&'b [u8]> { todo!() }
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> { todo!() }
}
#[derive(Debug, Default)]
pub struct ReadBuf;
impl ReadBuf { pub fn new() -> Self { todo!() } }
#[derive(Debug)]
pub struct MountGuard;
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct MountRecord { pub mountpoint: PathBuf, pub pid: u32, pub since: String }
#[derive(Debug, Clone, serde::Serialize)]
pub struct AuditLine { pub seq: u64, pub time: String, pub event: String, pub name: String, pub via: String, pub who: String, pub why: String, pub generation: u64 }
#[derive(Debug, Clone, serde::Serialize)]
pub struct AuditSummary { pub lines: u64, pub head: String }
