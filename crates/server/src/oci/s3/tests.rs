//! What the S3 back end promises beyond the others.

#[path = "../../../tests/http/bucket.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "the rig of the integration tests, too")]
pub(in super::super) mod bucket;
