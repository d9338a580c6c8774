//! The OCI distribution protocol (distribution-spec 1.1.1, image-spec 1.1) without I/O.
//!
//! Owns: the grammar of names, tags and digests, the error table, manifests and descriptors, byte ranges, the states of an upload, which tags
//! may move, referrers, pages, and whether a manifest is a model. Promises: nothing here opens, sends or waits; whatever the bytes, a parser
//! ends in linear time, in memory in the measure of its input, with a value or a [`Failure`] that is a reply ready to be sent. Leaves out:
//! HTTP, storage, who may do what, and every judgement about a model's bytes, which is the core's.
//!
//! ```text
//! request ─ name, digest ── manifest ─┬─ blobs_required       (are they there?)
//!                │                    ├─ referrers            (whose index does it go to?)
//!                ├─ upload, range     └─ model::recognise     (which files would be mounted?)
//!                └─ tags, page        any of them ─ Failure ── reply
//! ```
//!
//! The types of the crate `oci-spec` are not used: they take what is to be refused here (a repeated field, a digest of any form, a negative
//! size), and do not keep the bytes that a manifest's digest is of.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on has failed"))]

pub mod digest;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod manifest;
pub mod model;
pub mod name;
pub mod page;
pub mod range;
pub mod referrers;
mod strict;
pub mod tags;
pub mod upload;

pub use digest::{Algorithm, Digest, DigestError};
pub use error::{Code, Failure};
pub use manifest::{Descriptor, Kind, Manifest};
pub use model::{ModelFile, ModelManifest};
pub use name::{Reference, Repository, Tag};
pub use page::Page;
pub use tags::TagRules;
pub use upload::{Accept, Upload};
