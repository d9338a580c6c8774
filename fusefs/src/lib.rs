//! The FUSE daemon of securereg: promoted models as an immutable, verified tree.
//!
//! Owns: the mount. Promises: every byte a reader gets through it has been checked against what was promoted; a
//! quarantined model is refused within 100 ms, whoever quarantined it, and the kernel's pages of it are dropped; damage is
//! EIO (SIGBUS in a mapping), never other bytes, never an early end of file, never a hang; nothing can be written,
//! whatever the mount is remounted to. Leaves out: hashing and the catalog, which are the core's, and signals and
//! arguments, which are the command's.
//!
//! ```text
//! mount ── opens /dev/fuse, mounts, unmounts                    kernel
//!   adapter ── one function a request ──────────────────────────── │
//!     daemon ── opens, reads, handles ──> core (Registry)          │
//!       view ── which paths exist, with what inode number          │
//!       pool ── whatever may block, with a deadline                │
//!       gate ── each reply with bytes passes its file's            │
//!     revoke ── pages and names dropped, loops ended ──────────────┘
//! ```

mod adapter;
mod allow;
mod daemon;
mod errno;
mod gate;
mod immutable;
mod mount;
mod pool;
mod queue;
mod revoke;
mod ticket;
mod view;

pub use allow::Allow;
pub use mount::{Attached, Mount, MountError, MountErrorKind, MountOptions, Unmounter, can_mount, detach_when_told};
