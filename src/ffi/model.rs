//! What is recorded of a model.
//!
//! Owns: `securereg_model` and `securereg_list`, snapshots that do not change. Promises: a string stays where it is until
//! its handle is freed. Leaves out: the model's bytes.

use super::args::{Out, Sized0, SizedOut};
use super::error::{Failure, c_text, securereg_error};
use super::status::securereg_status;
use super::status::securereg_status::SECUREREG_NOT_FOUND;
use super::table::Reserved;
use super::{Result, enter, table};
use crate::artifact::Artifact;
use std::ffi::{CString, c_char};
use std::mem::{offset_of, size_of};
use std::ptr::null;
use std::sync::{Arc, OnceLock};

/// A model as it was when it was asked for: free it with securereg_model_free.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_model {
    /// A token; 0 is none.
    pub id: u64,
}

/// All models as they were when they were asked for: free it with securereg_list_free.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_list {
    /// A token; 0 is none.
    pub id: u64,
}

/// It is served.
pub const SECUREREG_MODEL_PROMOTED: u32 = 0;
/// It is not served.
pub const SECUREREG_MODEL_QUARANTINED: u32 = 1;

/// What is recorded of a model. Strings belong to the securereg_model: they are gone with securereg_model_free.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_model_info {
    /// sizeof(securereg_model_info), set by the caller.
    pub size: usize,
    /// Its name.
    pub name: *const c_char,
    /// Its SHA-256, bare hex: of several files that of their list.
    pub sha256: *const c_char,
    /// "gguf", "safetensors", "pytorch" or "onnx"; later versions may know more.
    pub format: *const c_char,
    /// "file", "folder" or "split".
    pub layout: *const c_char,
    /// Where it came from, in the promoter's words.
    pub source: *const c_char,
    /// When it was promoted: RFC 3339, UTC.
    pub promoted_at: *const c_char,
    /// Why it is quarantined; NULL when it is not.
    pub quarantine_reason: *const c_char,
    /// Who decides over its release: "integrity" or "incident"; NULL when it is not quarantined.
    pub quarantine_cause: *const c_char,
    /// The incident; NULL when none was named.
    pub incident_id: *const c_char,
    /// The sum of its files, in bytes.
    pub size_bytes: u64,
    /// How many files it has: at least 1.
    pub file_count: u64,
    /// A SECUREREG_MODEL_*.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size; integers and pointers, for which zeroes are NULL.
unsafe impl Sized0 for securereg_model_info {
    const FIRST: usize = offset_of!(securereg_model_info, reserved) + size_of::<u32>();
}

/// One file of a model. Strings belong to the securereg_model.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_file_info {
    /// sizeof(securereg_file_info), set by the caller.
    pub size: usize,
    /// Its path inside the model; of a single file its name.
    pub path: *const c_char,
    /// Its SHA-256, bare hex.
    pub sha256: *const c_char,
    /// Its BLAKE3 hash, bare hex.
    pub blake3: *const c_char,
    /// Its size in bytes.
    pub size_bytes: u64,
}

// SAFETY: repr(C), begins with its size; integers and pointers, for which zeroes are NULL.
unsafe impl Sized0 for securereg_file_info {
    const FIRST: usize = offset_of!(securereg_file_info, size_bytes) + size_of::<u64>();
}

/// What stands in the table: the artifact, and its strings once somebody asks for them.
pub(crate) struct Model {
    artifact: Arc<Artifact>,
    strings: OnceLock<Strings>,
}

struct Strings {
    name: CString,
    sha256: CString,
    format: CString,
    layout: CString,
    source: CString,
    promoted_at: CString,
    quarantine: Option<[CString; 2]>,
    incident: Option<CString>,
    files: Vec<[CString; 3]>,
}

impl Model {
    pub(crate) fn give(artifact: Arc<Artifact>) -> Result<securereg_model> {
        table::insert(Model { artifact, strings: OnceLock::new() }).map(|id| securereg_model { id })
    }

    /// The same where a token was reserved for it.
    pub(crate) fn fill(token: Reserved, artifact: Arc<Artifact>) -> securereg_model {
        securereg_model { id: token.fill(Model { artifact, strings: OnceLock::new() }) }
    }

    fn strings(&self) -> &Strings {
        let a = &self.artifact;
        let quarantine = a.quarantine.as_ref();
        self.strings.get_or_init(|| Strings {
            name: c_text(a.name.as_str()),
            sha256: c_text(&a.sha256.to_hex()),
            format: c_text(a.format.as_str()),
            layout: c_text(a.layout.as_str()),
            source: c_text(&a.source),
            promoted_at: c_text(&a.promoted_at),
            quarantine: quarantine.map(|q| [c_text(&q.reason), c_text(q.cause.as_str())]),
            incident: quarantine.and_then(|q| q.incident_id.as_deref()).map(c_text),
            files: a
                .files
                .iter()
                .map(|f| [c_text(f.path.as_str()), c_text(&f.sha256.to_hex()), c_text(&f.blake3.to_hex())])
                .collect(),
        })
    }
}

/// What is recorded of a model. Set `info->size` first. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_model_get(
    model: securereg_model,
    info: *mut securereg_model_info,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `info`.
        let out = unsafe { SizedOut::new(info, "info") }?;
        let model = table::find::<Model>(model.id, "model")?;
        let (a, s) = (&model.artifact, model.strings());
        let quarantine = |i: usize| s.quarantine.as_ref().map_or(null(), |texts| texts[i].as_ptr());
        out.put(securereg_model_info {
            size: 0,
            name: s.name.as_ptr(),
            sha256: s.sha256.as_ptr(),
            format: s.format.as_ptr(),
            layout: s.layout.as_ptr(),
            source: s.source.as_ptr(),
            promoted_at: s.promoted_at.as_ptr(),
            quarantine_reason: quarantine(0),
            quarantine_cause: quarantine(1),
            incident_id: s.incident.as_ref().map_or(null(), |id| id.as_ptr()),
            size_bytes: a.size_bytes,
            file_count: a.files.len() as u64,
            status: if a.is_promoted() { SECUREREG_MODEL_PROMOTED } else { SECUREREG_MODEL_QUARANTINED },
            reserved: 0,
        });
        Ok(())
    })
}

/// The file at `index` of a model, from 0, sorted by path. Set `info->size` first. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND from file_count on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_model_file(
    model: securereg_model,
    index: u64,
    info: *mut securereg_file_info,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `info`.
        let out = unsafe { SizedOut::new(info, "info") }?;
        let model = table::find::<Model>(model.id, "model")?;
        let none = || Failure::new(SECUREREG_NOT_FOUND, format!("{} has no file {index}", model.artifact.name));
        let at = usize::try_from(index).map_err(|_| none())?;
        let file = model.artifact.files.get(at).ok_or_else(none)?;
        let [path, sha256, blake3] = &model.strings().files[at];
        out.put(securereg_file_info {
            size: 0,
            path: path.as_ptr(),
            sha256: sha256.as_ptr(),
            blake3: blake3.as_ptr(),
            size_bytes: file.size_bytes,
        });
        Ok(())
    })
}

/// Frees a model and its strings. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_model_free(model: securereg_model) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<Model>(model.id, "model"))
}

/// How many models a list has. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_list_count(
    list: securereg_list,
    out: *mut u64,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        out.put(table::find::<Vec<Arc<Artifact>>>(list.id, "list")?.len() as u64);
        Ok(())
    })
}

/// The model at `index` of a list, from 0. `*out` is the caller's, and outlives the list. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND from the count on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_list_at(
    list: securereg_list,
    index: u64,
    out: *mut securereg_model,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        let list = table::find::<Vec<Arc<Artifact>>>(list.id, "list")?;
        let artifact = usize::try_from(index).ok().and_then(|index| list.get(index));
        let none = || Failure::new(SECUREREG_NOT_FOUND, format!("the list has {} models, no {index}", list.len()));
        out.put(Model::give(Arc::clone(artifact.ok_or_else(none)?))?);
        Ok(())
    })
}

/// Frees a list. Models taken from it stay. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_list_free(list: securereg_list) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<Vec<Arc<Artifact>>>(list.id, "list"))
}
