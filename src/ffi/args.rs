//! What the caller points to.
//!
//! Owns: the only places where memory of the caller is read or written. Promises: NULL, a wrong alignment, a string that is
//! not UTF-8 and a struct of a size this library does not know are failures that name the argument. Leaves out: what the
//! caller alone can know: that a pointer which is not NULL leads to what its type says.

use super::Result;
use super::error::Failure;
use super::status::securereg_status::{SECUREREG_INVALID_INPUT, SECUREREG_NULL, SECUREREG_WRONG_SIZE};
use std::ffi::{CStr, c_char};
use std::mem::{MaybeUninit, size_of};

/// A struct that begins with its own size, so that fields can be added at its end.
///
/// # Safety
/// It is `repr(C)`, begins with a `usize`, and all zeroes are a value of it.
pub(crate) unsafe trait Sized0: Copy {
    /// The size it had when it first appeared: to the end of what was its last field then, whatever comes after it now.
    const FIRST: usize;
}

/// A struct larger than this is no newer version but a mistake.
const MAX_STRUCT: usize = 4096;

fn null(what: &str) -> Failure {
    Failure::new(SECUREREG_NULL, format!("{what} is NULL"))
}

fn check_pointer<T>(pointer: *const T, what: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(null(what));
    }
    if !pointer.is_aligned() {
        return Err(Failure::new(SECUREREG_INVALID_INPUT, format!("{what} is not aligned")));
    }
    Ok(())
}

/// The caller's string.
///
/// # Safety
/// `pointer` is NULL or leads to a string that ends in NUL and stays as it is for `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str> {
    check_pointer(pointer, what)?;
    // SAFETY: not NULL; the caller vouches for the NUL and for the lifetime.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::new(SECUREREG_INVALID_INPUT, format!("{what} is not UTF-8")))
}

/// The caller's string, where none is meant by NULL.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(pointer: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller of this vouches.
    unsafe { text(pointer, what) }.map(Some)
}

/// The caller's options; all zeroes for NULL. One that a newer program made is read as far as it is known, and refused when
/// it asks for more than that.
///
/// # Safety
/// `pointer` is NULL or leads to as many bytes as its first field says.
pub(crate) unsafe fn options<T: Sized0>(pointer: *const T, what: &str) -> Result<T> {
    let mut known = MaybeUninit::<T>::zeroed();
    if !pointer.is_null() {
        check_pointer(pointer, what)?;
        // SAFETY: every such struct begins with its size; aligned for T, so for a usize.
        let size = unsafe { pointer.cast::<usize>().read() };
        if !(T::FIRST..=MAX_STRUCT).contains(&size) {
            return Err(wrong_size::<T>(size, what));
        }
        for at in size_of::<T>()..size {
            // SAFETY: below the size that the caller vouches for.
            if unsafe { pointer.cast::<u8>().add(at).read() } != 0 {
                return Err(wrong_size::<T>(size, what));
            }
        }
        // SAFETY: both are valid for the smaller of the two sizes, and apart from each other.
        unsafe {
            std::ptr::copy_nonoverlapping(
                pointer.cast::<u8>(),
                known.as_mut_ptr().cast::<u8>(),
                size.min(size_of::<T>()),
            )
        };
    }
    // SAFETY: zeroes are a value of T, and what was copied over them is the caller's T.
    Ok(unsafe { known.assume_init() })
}

fn wrong_size<T>(size: usize, what: &str) -> Failure {
    let why = format!(
        "{what}.size is {size}; set it to sizeof, which is {} here, and leave what you do not use at zero",
        size_of::<T>()
    );
    Failure::new(SECUREREG_WRONG_SIZE, why)
}

/// A place for a result that has no size of its own. Nothing is written before [`Out::put`].
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is NULL or valid for a write of `T` until this is dropped.
    pub(crate) unsafe fn new(pointer: *mut T, what: &str) -> Result<Out<T>> {
        check_pointer(pointer, what)?;
        Ok(Out(pointer))
    }

    pub(crate) fn put(self, value: T) {
        // SAFETY: checked when it was made, and the caller vouches for the rest.
        unsafe { self.0.write(value) };
    }
}

/// A place for a struct that begins with its size. An older program's shorter one is filled as far as it goes.
pub(crate) struct SizedOut<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Sized0> SizedOut<T> {
    /// # Safety
    /// `pointer` is NULL or valid for as many bytes as its first field says, until this is dropped.
    pub(crate) unsafe fn new(pointer: *mut T, what: &str) -> Result<SizedOut<T>> {
        check_pointer(pointer, what)?;
        // SAFETY: every such struct begins with its size; aligned for T, so for a usize.
        let size = unsafe { pointer.cast::<usize>().read() };
        if !(T::FIRST..=MAX_STRUCT).contains(&size) {
            return Err(wrong_size::<T>(size, what));
        }
        Ok(SizedOut { pointer, size })
    }

    /// Writes all but the size, which stays the caller's.
    pub(crate) fn put(self, value: T) {
        let known = self.size.min(size_of::<T>());
        let head = size_of::<usize>();
        let from = (&raw const value).cast::<u8>();
        // SAFETY: both are valid for `known` bytes, at least FIRST and so past the head; `value` is ours.
        unsafe { std::ptr::copy_nonoverlapping(from.add(head), self.pointer.cast::<u8>().add(head), known - head) };
    }
}

/// The caller's buffer of `len` bytes, of which no more than `useful` will be written: a length alone must not decide how
/// much memory is claimed to be there.
///
/// # Safety
/// `pointer` is NULL or valid for writes of `len` bytes, which nobody else touches, for `'a`.
pub(crate) unsafe fn buffer<'a>(pointer: *mut u8, len: usize, useful: u64, what: &str) -> Result<&'a mut [u8]> {
    if len == 0 {
        return Ok(&mut []);
    }
    if pointer.is_null() {
        return Err(null(what));
    }
    if isize::try_from(len).is_err() {
        return Err(Failure::new(SECUREREG_INVALID_INPUT, format!("a length of {len} bytes for {what} cannot be")));
    }
    let len = usize::try_from(useful).map_or(len, |useful| len.min(useful));
    // SAFETY: not NULL, a possible length, and at most what the caller vouches for.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}
