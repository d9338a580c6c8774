//! securereg: a trusted model registry.
pub mod artifact;
mod digest;
mod error;
mod name;
mod registry;
mod task;
pub use artifact::{Artifact, Cause, FileEntry, Format, Layout, Quarantine};
pub use digest::{Blake3Digest, Sha256Digest};
pub use error::{Error, ErrorKind, Result};
pub use name::{ModelName, RelPath};
pub use registry::*;
pub use task::{Actor, Phase, Progress, Task};
