//! securereg: a trusted model registry.
//!
//! A model that was promoted is served read-only, and every byte that any reader ever gets has been checked against what was
//! promoted. This crate is the core: synchronous, without an async runtime, HTTP, FUSE or a network. The command, the mount
//! and the server are crates on top of it.
//!
//! ```
//! use securereg::{Actor, PromoteRequest, ReadMode, Registry, Source, Task};
//!
//! # let dir = tempfile::tempdir()?;
//! # let (root, file) = (dir.path().join("root"), dir.path().join("tiny.gguf"));
//! # std::fs::write(&file, [b"GGUF\x03\0\0\0".as_slice(), &[0; 16]].concat())?;
//! let registry = Registry::open_or_create(&root)?;
//! let me = Actor::this_process("library");
//!
//! let request = PromoteRequest::new("tiny".parse()?);
//! let promotion = registry.promote(request, Source::open(&file)?, &me, &Task::unattended())?;
//! assert_eq!(promotion.artifact.size_bytes, 24);
//!
//! let file = registry.open_file(&"tiny".parse()?, &"tiny.gguf".parse()?, ReadMode::Cached)?;
//! let mut magic = [0; 4];
//! file.read_at(&mut magic, 0)?;
//! assert_eq!(&magic, b"GGUF");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(all(panic = "abort", feature = "capi"))]
compile_error!(
    "the C ABI promises that a panic ends at its boundary, and with panic = \"abort\" it ends the program: build it with \"unwind\""
);

mod artifact;
mod audit;
mod blobs;
mod buffer;
mod catalog;
mod content;
mod describe;
mod digest;
mod durable;
mod error;
mod events;
mod ffi;
mod figures;
mod format;
mod fsck;
mod gc;
mod glob;
pub mod guard;
mod idle;
mod immutable;
mod ingest;
mod inspect;
mod key;
mod layout;
mod lent;
mod memory;
#[cfg(test)]
#[path = "../tests/support/models.rs"]
mod models;
mod monitor;
mod mounts;
mod name;
mod policy;
mod promote;
mod recover;
mod registry;
mod repair;
mod scan;
mod sealed;
mod sha256;
mod sidecar;
pub mod signing;
mod source;
mod staged;
mod stamp;
mod sys;
mod task;
mod tensorcheck;
mod tensors;
mod tree;
mod verified;
mod verify;
mod watch;

pub use artifact::{Artifact, Blocked, Cause, FileEntry, Format, Layout, Quarantine, Weights, list_digest};
pub use audit::{AuditLine, AuditSummary, Noted, now};
pub use buffer::ReadBuf;
pub use catalog::{Catalog, holder_of_path};
pub use content::{Content, ContentDigest, Held, Kind, Put, RepositoryName, Upload};
pub use digest::{Blake3Digest, Sha256Digest};
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, EventKind, Events};
pub use figures::{Counts, Disk};
pub use format::description::{Adapter, Description, Tensor};
pub use format::finding::{Finding, Place, Rule, Severity};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use format::fuzzing;
pub use format::ggml_type::GgmlType;
pub use format::gguf::{Array, GgufHeader, MAX_HEADER, Strings, TensorInfo, Value, ValueType};
pub use fsck::{FsckDepth, FsckReport, Problem, Urgency};
pub use gc::{GcReport, Tally};
pub use glob::Glob;
pub use inspect::{Inspected, Inspection, inspect};
pub use key::PublicKey;
pub use monitor::{MonitorOptions, MonitorState, StoredWatch};
pub use mounts::{MountGuard, MountRecord};
pub use name::{MAX_DEPTH, MAX_NAME, MAX_TAG, ModelName, RelPath};
pub use policy::{Action, Judged, Policy, SCANNER, Signers, Verdict};
pub use recover::{RecoverOptions, Recovery, RecoveryStep, recover};
pub use registry::{
    MAX_EVIDENCE, ManifestReport, Method, Outcome, PromoteRequest, Promotion, Registry, Release, Transfer, VerifyAll,
    VerifyReport, VerifyStatus,
};
pub use repair::{Gap, RepairReport, RepairStatus, RepairedFile};
pub use sealed::Sealed;
pub use sha256::Stream as Sha256Stream;
pub use source::{MAX_FILES, Source};
pub use sys::{close_all_on_exec, keep_freed_memory};
pub use task::{Actor, Phase, Progress, Task};
pub use tree::{GROUP, SPAN};
pub use verified::{CheckedBytes, ReadMode, VerifiedFile};
pub use watch::Watch;
