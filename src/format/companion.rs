//! To come.
mod magic;
pub(crate) use magic::disguise;
