//! Token files.
//!
//! Owns: reading them, and generating them at a first start. Promises: a file that is empty, short, or open to other
//! users is refused; two scopes never share a token; a generated token is 256 bits from the kernel, in a file of mode
//! 0600 that is whole when it appears and is never written over. Leaves out: comparing (`auth`).

use crate::auth::{Scope, Tokens};
use crate::config::TokenFiles;
use crate::server::ServerError;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Below this a token can be guessed.
const MIN: usize = 16;
/// Above this it is some other file.
const MAX: u64 = 4096;

/// The tokens of a server and, when they are generated ones, their files.
pub(crate) struct Loaded {
    pub(crate) tokens: Tokens,
    pub(crate) generated: Vec<PathBuf>,
}

/// The tokens that `files` name or, when they name none, generated ones in `<root>/tokens`.
pub(crate) fn load(root: &Path, files: &TokenFiles) -> Result<Loaded, ServerError> {
    if *files == TokenFiles::default() {
        return generated(root);
    }
    let scoped = Scope::ALL.map(|scope| (scope, own_file(files, scope)));
    let mut tokens: Vec<(Scope, Box<[u8]>)> = Vec::new();
    for (scope, path) in scoped {
        let Some(path) = path else { continue };
        let token = read(path)?;
        if let Some((other, _)) = tokens.iter().find(|(_, t)| *t == token) {
            return Err(ServerError::Tokens(format!(
                "the {} and {} tokens are the same: each scope needs its own ({})",
                other.as_str(),
                scope.as_str(),
                path.display(),
            )));
        }
        tokens.push((scope, token));
    }
    let legacy = [Scope::Read, Scope::Verify, Scope::Promote, Scope::Admin];
    if let Some(path) = &files.service
        && !tokens.iter().any(|(scope, _)| legacy.contains(scope))
    {
        let token = read(path)?;
        if tokens.iter().any(|(_, t)| *t == token) {
            return Err(ServerError::Tokens("the service and containment tokens are the same".into()));
        }
        tokens.extend(legacy.map(|scope| (scope, token.clone())));
    }
    for scope in Scope::ALL {
        if !tokens.iter().any(|(s, _)| *s == scope) {
            tracing::warn!(scope = scope.as_str(), "no token is configured for this scope: it is closed");
        }
    }
    Ok(Loaded { tokens: Tokens::new(tokens), generated: Vec::new() })
}

fn own_file(files: &TokenFiles, scope: Scope) -> Option<&PathBuf> {
    match scope {
        Scope::Read => files.read.as_ref(),
        Scope::Verify => files.verify.as_ref(),
        Scope::Promote => files.promote.as_ref(),
        Scope::Admin => files.admin.as_ref(),
        Scope::Containment => files.containment.as_ref(),
    }
}

fn generated(root: &Path) -> Result<Loaded, ServerError> {
    let path = root.join("tokens");
    let fail = |what: &str, e: Errno| ServerError::Tokens(format!("{what} {}: {e}", path.display()));
    match rustix::fs::mkdir(&path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(fail("cannot make", e)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| fail("cannot open", e))?;
    let (mut tokens, mut paths) = (Vec::new(), Vec::new());
    for scope in Scope::ALL {
        let name = format!("{}.token", scope.as_str());
        let file = path.join(&name);
        create_unless_there(&folder, &name).map_err(|e| fail(&format!("cannot write {name} in"), e))?;
        tokens.push((scope, read(&file)?));
        paths.push(file);
    }
    Ok(Loaded { tokens: Tokens::new(tokens), generated: paths })
}

/// Temp, fsync, rename without replacing, fsync the folder: a second process that starts at the same time finds either
/// no file or a whole one, and both end up with the same token.
fn create_unless_there(folder: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    let temp = format!(".{name}.{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, &*temp, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let written = random_hex().and_then(|token| {
        file.write_all(token.as_bytes()).map_err(io)?;
        file.write_all(b"\n").map_err(io)?;
        file.sync_all().map_err(io)?;
        match rustix::fs::renameat_with(folder, &*temp, folder, name, RenameFlags::NOREPLACE) {
            Ok(()) => rustix::fs::fsync(folder),
            Err(e) => Err(e),
        }
    });
    if written.is_err() {
        // It may be gone already; what matters is that nothing of a failed attempt stays.
        let _ = rustix::fs::unlinkat(folder, &*temp, AtFlags::empty());
    }
    match written {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// 256 bits from the kernel, as hex.
pub(crate) fn random_hex() -> Result<String, Errno> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The token in `path`. Links are followed: secret stores mount files that way.
pub(crate) fn read(path: &Path) -> Result<Box<[u8]>, ServerError> {
    secret(path, MIN)
}

/// The secret in `path`, which has at least so many bytes. For those that are not ours to choose.
pub(crate) fn secret(path: &Path, least: usize) -> Result<Box<[u8]>, ServerError> {
    let refuse = |why: &str| Err(ServerError::Tokens(format!("token file {}: {why}", path.display())));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(e) => return refuse(&format!("cannot be opened: {e}")),
    };
    let meta = match file.metadata() {
        Ok(meta) => meta,
        Err(e) => return refuse(&format!("cannot be read: {e}")),
    };
    if !meta.is_file() {
        return refuse("is not a regular file");
    }
    if meta.mode() & 0o007 != 0 {
        return refuse(&format!("is open to other users (mode {:04o}): chmod 0600", meta.mode() & 0o7777));
    }
    let mut bytes = Vec::new();
    if let Err(e) = file.take(MAX + 1).read_to_end(&mut bytes) {
        return refuse(&format!("cannot be read: {e}"));
    }
    let token = bytes.trim_ascii();
    if bytes.len() as u64 > MAX {
        return refuse("is over 4096 bytes: that is no token");
    }
    if token.len() < least {
        return refuse(&format!("holds {} bytes: a token has at least {least}", token.len()));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return refuse("holds something that cannot be sent in a header: one line of ASCII is wanted");
    }
    Ok(token.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(folder: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        path
    }

    #[test]
    fn generated_tokens_are_private_stable_and_distinct() {
        let root = tempfile::tempdir().expect("a folder");
        let first = load(root.path(), &TokenFiles::default()).expect("generated");
        assert_eq!(first.generated.len(), 5);
        let texts: Vec<String> =
            first.generated.iter().map(|p| std::fs::read_to_string(p).expect("readable")).collect();
        for (i, (path, text)) in first.generated.iter().zip(&texts).enumerate() {
            assert_eq!(std::fs::metadata(path).expect("there").mode() & 0o7777, 0o600);
            assert_eq!(text.trim().len(), 64);
            assert!(!texts[..i].contains(text), "each is its own");
        }
        assert_eq!(std::fs::metadata(root.path().join("tokens")).expect("there").mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(root.path().join("tokens")).expect("a folder").count(), 5, "no temp file stays");

        std::fs::remove_file(&first.generated[0]).expect("removed");
        load(root.path(), &TokenFiles::default()).expect("again");
        for (path, text) in first.generated.iter().zip(&texts).skip(1) {
            assert_eq!(&std::fs::read_to_string(path).expect("readable"), text, "never written over");
        }
        assert_ne!(std::fs::read_to_string(&first.generated[0]).expect("new"), texts[0]);
    }

    #[test]
    fn a_token_file_that_is_empty_short_or_open_to_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = b"0123456789abcdef\n";
        let with = |path: &Path| TokenFiles { read: Some(path.into()), ..TokenFiles::default() };
        load(folder.path(), &with(&file(folder.path(), "ok", good, 0o600))).map(drop).expect("fits");
        load(folder.path(), &with(&file(folder.path(), "group", good, 0o640))).map(drop).expect("a group may share it");
        for (name, content, mode, why) in [
            ("empty", &b""[..], 0o600, "holds 0 bytes"),
            ("blank", b"                    \n", 0o600, "holds 0 bytes"),
            ("short", b"0123456789abcde\n", 0o600, "holds 15 bytes"),
            ("world", good, 0o604, "open to other users"),
            ("lines", b"0123456789abcdef\n0123456789abcdef\n", 0o600, "one line"),
            ("large", &[b'x'; 5000], 0o600, "over 4096"),
        ] {
            let e = load(folder.path(), &with(&file(folder.path(), name, content, mode))).map(drop).expect_err(name);
            assert!(e.to_string().contains(why), "{name}: {e}");
        }
        assert!(load(folder.path(), &with(folder.path())).is_err(), "a folder is no token");
        assert!(load(folder.path(), &with(&folder.path().join("none"))).is_err());
        assert!(!folder.path().join("tokens").exists(), "nothing is generated when something is configured");
    }

    #[test]
    fn two_scopes_never_share_a_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = file(folder.path(), "one", b"0123456789abcdef", 0o600);
        let files = TokenFiles { read: Some(one.clone()), admin: Some(one.clone()), ..TokenFiles::default() };
        assert!(load(folder.path(), &files).map(drop).expect_err("refused").to_string().contains("the same"));
        let files = TokenFiles { service: Some(one.clone()), containment: Some(one), ..TokenFiles::default() };
        assert!(load(folder.path(), &files).map(drop).expect_err("refused").to_string().contains("the same"));
    }
}
