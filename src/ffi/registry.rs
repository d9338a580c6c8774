//! A registry: opening it, asking it, changing it.
//!
//! Owns: `securereg_registry` and its verbs. Promises: a verification that does not pass is never SECUREREG_OK. Leaves out:
//! model bytes (`file`, `sealed`), what is known of a model (`model`).

use super::args::{self, Out, Sized0, SizedOut};
use super::error::{Failure, securereg_error};
use super::model::{Model, securereg_list, securereg_model};
use super::status::securereg_status;
use super::status::securereg_status::{SECUREREG_INVALID_INPUT, SECUREREG_NOT_FOUND, SECUREREG_TOO_LARGE};
use super::task::{self, securereg_task};
use super::text::{self, securereg_text};
use super::{Result, enter, table};
use crate::name::ModelName;
use crate::registry::{MAX_EVIDENCE, Method, Outcome, PromoteRequest, Registry, Transfer};
use crate::source::Source;
use crate::task::Actor;
use crate::verify::{Release, VerifyStatus};
use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::sync::Arc;

/// An open registry: close it with securereg_close. May be used by any number of threads at once.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_registry {
    /// A token; 0 is none.
    pub id: u64,
}

/// securereg_open: change what is there, too. Without it nothing is written to the root, not even a lock file, so it may lie on
/// a read-only file system; damage that is found is then refused by this process only.
pub const SECUREREG_OPEN_WRITE: u32 = 1;
/// securereg_open: make the registry where there is none. Asks for SECUREREG_OPEN_WRITE.
pub const SECUREREG_OPEN_CREATE: u32 = 2;

/// Options of securereg_open.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_open_options {
    /// sizeof(securereg_open_options).
    pub size: usize,
    /// SECUREREG_OPEN_* together, or 0 to read only.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, integers only.
unsafe impl Sized0 for securereg_open_options {
    const FIRST: usize = offset_of!(securereg_open_options, reserved) + size_of::<u32>();
}

/// Who asks, for the audit log.
fn me() -> Actor {
    Actor::this_process("library")
}

/// The registry of a handle.
pub(crate) fn find(registry: securereg_registry) -> Result<Arc<Registry>> {
    table::find(registry.id, "registry")
}

/// The caller's model name.
///
/// # Safety
/// As [`args::text`].
pub(crate) unsafe fn name_of(name: *const c_char) -> Result<ModelName> {
    // SAFETY: as the caller of this vouches.
    Ok(unsafe { args::text(name, "name") }?.parse()?)
}

/// Opens the registry at the folder `root`: NULL is /var/lib/secure-ai/registry for root, $XDG_DATA_HOME/securereg/registry
/// for anyone else. `options` may be NULL: to read only. On success `*out` is the caller's, to be closed with
/// securereg_close. Starts no thread. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND without a registry there; SECUREREG_PERMISSION when it is not private to this user;
/// SECUREREG_MANIFEST when its records do not hold; SECUREREG_UNSUPPORTED on a network file system.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_open(
    root: *const c_char,
    options: *const securereg_open_options,
    out: *mut securereg_registry,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `root`, `options` and `out`.
        let (root, options, out) =
            unsafe { (args::optional_text(root, "root")?, args::options(options, "options")?, Out::new(out, "out")?) };
        let root = root.map_or_else(Registry::default_root, |root| Path::new(root).to_owned());
        let registry = match options.flags {
            0 => Registry::open_read_only(&root)?,
            SECUREREG_OPEN_WRITE => Registry::open(&root)?,
            flags if flags == SECUREREG_OPEN_WRITE | SECUREREG_OPEN_CREATE => Registry::open_or_create(&root)?,
            flags => {
                let why =
                    format!("options.flags is {flags}: 0, SECUREREG_OPEN_WRITE, or that with SECUREREG_OPEN_CREATE");
                return Err(Failure::new(SECUREREG_INVALID_INPUT, why));
            }
        };
        out.put(securereg_registry { id: table::insert(registry)? });
        Ok(())
    })
}

/// Closes a registry. What was opened from it stays open. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe: calls
/// that use it this moment finish.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_close(registry: securereg_registry) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<Registry>(registry.id, "registry"))
}

/// The generation of the catalog: it counts up with each change, by whatever process. Thread-safe.
///
/// Errors: SECUREREG_MANIFEST while the registry's records do not hold.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_generation(
    registry: securereg_registry,
    out: *mut u64,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        out.put(find(registry)?.catalog()?.generation());
        Ok(())
    })
}

/// All models, quarantined ones too, sorted by name, as they are this moment. `*out` is the caller's, to be freed with
/// securereg_list_free. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_list_models(
    registry: securereg_registry,
    out: *mut securereg_list,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        let models: Vec<_> = find(registry)?.catalog()?.artifacts().cloned().collect();
        out.put(securereg_list { id: table::insert(models)? });
        Ok(())
    })
}

/// The model `name`, quarantined or not, as it is this moment. `*out` is the caller's, to be freed with
/// securereg_model_free. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_lookup(
    registry: securereg_registry,
    name: *const c_char,
    out: *mut securereg_model,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `name` and `out`.
        let (name, out) = unsafe { (name_of(name)?, Out::new(out, "out")?) };
        let artifact = Arc::clone(find(registry)?.catalog()?.require(&name)?);
        out.put(Model::give(artifact)?);
        Ok(())
    })
}

/// Everything that is recorded of the model `name`, as the JSON of the HTTP API. `*out` is the caller's. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND, SECUREREG_CORRUPT when the evidence kept with it was altered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_describe(
    registry: securereg_registry,
    name: *const c_char,
    out: *mut securereg_text,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `name` and `out`.
        let (name, out) = unsafe { (name_of(name)?, Out::new(out, "out")?) };
        let registry = find(registry)?;
        let artifact = Arc::clone(registry.catalog()?.require(&name)?);
        out.put(text::give(&registry.describe(&artifact)?.to_string())?);
        Ok(())
    })
}

/// Where a live mount shows the model `name`: its file, its folder, or the first shard of a split set. `*out` is the
/// caller's. Thread-safe.
///
/// Errors: SECUREREG_NOT_MOUNTED, SECUREREG_NOT_FOUND, SECUREREG_QUARANTINED, SECUREREG_CORRUPT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_mount_path(
    registry: securereg_registry,
    name: *const c_char,
    out: *mut securereg_text,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `name` and `out`.
        let (name, out) = unsafe { (name_of(name)?, Out::new(out, "out")?) };
        let path = find(registry)?.path(&name)?;
        let path = path.to_str().ok_or_else(|| {
            Failure::new(SECUREREG_INVALID_INPUT, format!("the path {} is not UTF-8", path.display()))
        })?;
        out.put(text::give(path)?);
        Ok(())
    })
}

/// securereg_promote: the source is given away: its file itself is taken where that is provably safe, else it is copied and
/// then removed.
pub const SECUREREG_PROMOTE_MOVE: u32 = 1;

/// Options of securereg_promote: what is claimed of the source. Strings may be NULL.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_promote_options {
    /// sizeof(securereg_promote_options).
    pub size: usize,
    /// The SHA-256 it must have, 64 hex digits: of several files that of their list (`<hex>  <path>\n`, sorted by path).
    pub sha256: *const c_char,
    /// The format it must have: "gguf", "safetensors", "pytorch" or "onnx".
    pub format: *const c_char,
    /// Its file name in the mount, for a single file.
    pub filename: *const c_char,
    /// Where it came from, in words.
    pub source: *const c_char,
    /// A JSON object that is kept with it as it is: scan results and the like, at most 16 MiB.
    pub evidence: *const c_char,
    /// The size it must have, in bytes; 0 claims nothing.
    pub size_bytes: u64,
    /// SECUREREG_PROMOTE_* together, or 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size; integers and pointers, for which zeroes are NULL.
unsafe impl Sized0 for securereg_promote_options {
    const FIRST: usize = offset_of!(securereg_promote_options, reserved) + size_of::<u32>();
}

/// The name is new.
pub const SECUREREG_OUTCOME_PROMOTED: u32 = 0;
/// The name already stood for these very bytes.
pub const SECUREREG_OUTCOME_ALREADY_THERE: u32 = 1;
/// A tag points to new content now, or damaged bytes were replaced by good ones.
pub const SECUREREG_OUTCOME_MOVED: u32 = 2;
/// The bytes were in the registry already.
pub const SECUREREG_METHOD_SHARED: u32 = 0;
/// The source's own file was taken.
pub const SECUREREG_METHOD_ADOPTED: u32 = 1;
/// The file system shares the blocks until one side changes.
pub const SECUREREG_METHOD_REFLINKED: u32 = 2;
/// The bytes were copied.
pub const SECUREREG_METHOD_COPIED: u32 = 3;

/// What a promotion did.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_promotion {
    /// sizeof(securereg_promotion), set by the caller.
    pub size: usize,
    /// A SECUREREG_OUTCOME_*.
    pub outcome: u32,
    /// A SECUREREG_METHOD_*; of several files the costliest.
    pub method: u32,
}

// SAFETY: repr(C), begins with its size, integers only.
unsafe impl Sized0 for securereg_promotion {
    const FIRST: usize = offset_of!(securereg_promotion, method) + size_of::<u32>();
}

/// # Safety
/// The pointers of `options` are NULL or lead to strings.
unsafe fn request(name: ModelName, options: &securereg_promote_options) -> Result<PromoteRequest> {
    // SAFETY: as the caller of this vouches, here and below.
    let given = |pointer, what| unsafe { args::optional_text(pointer, what) };
    let mut request = PromoteRequest::new(name);
    request.sha256 = given(options.sha256, "options.sha256")?.map(str::parse).transpose()?;
    request.format = given(options.format, "options.format")?.map(str::parse).transpose()?;
    request.filename = given(options.filename, "options.filename")?.map(str::parse).transpose()?;
    request.source = given(options.source, "options.source")?.unwrap_or_default().to_owned();
    request.size_bytes = (options.size_bytes != 0).then_some(options.size_bytes);
    request.transfer = match options.flags {
        0 => Transfer::Copy,
        SECUREREG_PROMOTE_MOVE => Transfer::Move,
        flags => {
            let why = format!("options.flags is {flags}: 0 or SECUREREG_PROMOTE_MOVE");
            return Err(Failure::new(SECUREREG_INVALID_INPUT, why));
        }
    };
    if let Some(evidence) = given(options.evidence, "options.evidence")? {
        // Before it is parsed: that takes many times its length.
        if evidence.len() > MAX_EVIDENCE {
            let why = format!("options.evidence has {} bytes, over the limit of {MAX_EVIDENCE}", evidence.len());
            return Err(Failure::new(SECUREREG_TOO_LARGE, why));
        }
        request.evidence = serde_json::from_str(evidence).map_err(|e| {
            Failure::new(SECUREREG_INVALID_INPUT, format!("options.evidence is not a JSON object: {e}"))
        })?;
    }
    Ok(request)
}

/// Takes the file, folder or first shard at `path` in as the model `name`: copied, hashed, inspected, judged, registered,
/// and synced to disk before the call returns. `options` and `task` may be NULL; so may `result`, which is told what
/// happened, and `out`, which is the caller's model, to be freed with securereg_model_free. Thread-safe.
///
/// Errors: SECUREREG_PERMISSION of a registry opened read-only; SECUREREG_DIGEST_MISMATCH, SECUREREG_REFUSED,
/// SECUREREG_SOURCE_CHANGED, SECUREREG_CONFLICT, SECUREREG_TOO_LARGE, SECUREREG_NO_SPACE, SECUREREG_CANCELLED: nothing was
/// changed then, except that a refusal is in the audit log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_promote(
    registry: securereg_registry,
    path: *const c_char,
    name: *const c_char,
    options: *const securereg_promote_options,
    task: *const securereg_task,
    result: *mut securereg_promotion,
    out: *mut securereg_model,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        let registry = find(registry)?;
        // SAFETY: the caller vouches for `path`, `name`, `options` with its strings, `result` and `out`.
        let (path, request, result, out) = unsafe {
            let options = args::options(options, "options")?;
            let result = (!result.is_null()).then(|| SizedOut::new(result, "result")).transpose()?;
            let out = (!out.is_null()).then(|| Out::new(out, "out")).transpose()?;
            (args::text(path, "path")?, request(name_of(name)?, &options)?, result, out)
        };
        let source = Source::open(Path::new(path))?;
        // Before it happens: once it has, nothing may fail any more.
        let out = out.map(|out| table::reserve().map(|token| (out, token))).transpose()?;
        // SAFETY: the caller vouches for `task`.
        let promotion = unsafe { task::with(task, |task| Ok(registry.promote(request, source, &me(), task)?)) }?;
        if let Some((out, token)) = out {
            out.put(Model::fill(token, Arc::clone(&promotion.artifact)));
        }
        if let Some(result) = result {
            let outcome = match promotion.outcome {
                Outcome::Promoted => SECUREREG_OUTCOME_PROMOTED,
                Outcome::AlreadyThere => SECUREREG_OUTCOME_ALREADY_THERE,
                Outcome::Moved => SECUREREG_OUTCOME_MOVED,
            };
            let method = match promotion.method {
                Method::Shared => SECUREREG_METHOD_SHARED,
                Method::Adopted => SECUREREG_METHOD_ADOPTED,
                Method::Reflinked => SECUREREG_METHOD_REFLINKED,
                Method::Copied => SECUREREG_METHOD_COPIED,
            };
            result.put(securereg_promotion { size: 0, outcome, method });
        }
        Ok(())
    })
}

/// Hashes every byte of the model `name`, from the disk. SECUREREG_OK only if all are what was promoted; that restores a
/// model which integrity had quarantined. `task` may be NULL. Thread-safe.
///
/// Errors: SECUREREG_CORRUPT (the model is quarantined by then; the error has both digests where they are known),
/// SECUREREG_UNREADABLE, SECUREREG_NOT_FOUND, SECUREREG_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_verify(
    registry: securereg_registry,
    name: *const c_char,
    task: *const securereg_task,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        let registry = find(registry)?;
        // SAFETY: the caller vouches for `name` and `task`.
        let name = unsafe { name_of(name) }?;
        // SAFETY: the same.
        let report = unsafe { task::with(task, |task| Ok(registry.verify(&name, &me(), task)?)) }?;
        Failure::of_report(&report)
    })
}

/// Hashes every byte of every model, each stored file once. SECUREREG_OK only if all models pass; the result is kept (not of
/// a registry opened to read only), see securereg_integrity. `task` may be NULL. Thread-safe.
///
/// Errors: SECUREREG_CORRUPT or SECUREREG_UNREADABLE, naming how many and the first; SECUREREG_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_verify_all(
    registry: securereg_registry,
    task: *const securereg_task,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        let registry = find(registry)?;
        // SAFETY: the caller vouches for `task`.
        let all = unsafe { task::with(task, |task| Ok(registry.verify_all(&me(), task)?)) }?;
        let failed = all.models.iter().find(|m| m.status == VerifyStatus::Failed);
        let Some(worst) = failed.or_else(|| all.models.iter().find(|m| m.status != VerifyStatus::Verified)) else {
            return Ok(());
        };
        let bad = all.models.iter().filter(|m| m.status != VerifyStatus::Verified).count();
        Failure::of_report(worst).map_err(|failure| failure.one_of(bad, all.checked))
    })
}

/// The result of the last verification of all models, by whatever process, as JSON: `{"models":[...],"checked":N,
/// "verified_at":...}`. `*out` is the caller's. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND when none has run yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_integrity(
    registry: securereg_registry,
    out: *mut securereg_text,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        let none = || Failure::new(SECUREREG_NOT_FOUND, "no verification of all models has run yet");
        let last = find(registry)?.last_verify_all()?.ok_or_else(none)?;
        let json = serde_json::to_string(&last)
            .map_err(|e| Failure::new(securereg_status::SECUREREG_IO, format!("the result cannot be shown: {e}")))?;
        out.put(text::give(&json)?);
        Ok(())
    })
}

/// Takes the model `name` out of service, everywhere, for `reason`; only a release brings it back. `incident_id` may be
/// NULL. Sealed memory that engines hold already stays as it is. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND, SECUREREG_PERMISSION of a registry opened read-only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_quarantine(
    registry: securereg_registry,
    name: *const c_char,
    reason: *const c_char,
    incident_id: *const c_char,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for the strings.
        let (name, reason, incident) = unsafe {
            (name_of(name)?, args::text(reason, "reason")?, args::optional_text(incident_id, "incident_id")?)
        };
        find(registry)?.quarantine(&name, reason, incident, &me())?;
        Ok(())
    })
}

/// Verifies the model `name` and, if every byte is good, lifts its quarantine, whoever put it. When no model has that name
/// now but one that had was deleted under an incident, its bytes may be promoted again. `reason` goes into the audit log.
/// `task` may be NULL. Thread-safe.
///
/// Errors: SECUREREG_CORRUPT or SECUREREG_UNREADABLE: it stays quarantined; SECUREREG_NOT_FOUND, SECUREREG_PERMISSION,
/// SECUREREG_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_release(
    registry: securereg_registry,
    name: *const c_char,
    reason: *const c_char,
    task: *const securereg_task,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        let registry = find(registry)?;
        // SAFETY: the caller vouches for the strings and for `task`.
        let (name, reason) = unsafe { (name_of(name)?, args::text(reason, "reason")?) };
        // SAFETY: the same.
        let released = unsafe { task::with(task, |task| Ok(registry.release(&name, reason, &me(), task)?)) }?;
        match released {
            Release::Model(report) => Failure::of_report(&report),
            // There are no bytes left to verify, and none are served: they may be promoted again.
            Release::Deleted(_) => Ok(()),
        }
    })
}

/// Removes the model `name`, and the bytes that no other model holds. What is open stays readable, and verified. The weights
/// of a model under an incident stay blocked until a release. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND, SECUREREG_PERMISSION of a registry opened read-only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_delete(
    registry: securereg_registry,
    name: *const c_char,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `name`.
        let name = unsafe { name_of(name) }?;
        find(registry)?.delete(&name, &me())?;
        Ok(())
    })
}
