//! The registry's own key: what it signs its manifest and its memory with.
//!
//! Owns: `signing.key` and `signing.pub` in the root, Ed25519 (RFC 8032) in PKCS#8 and SPKI PEM (RFC 8410). Promises: a root
//! that has a public key serves nothing that is not signed by it; a process that has seen one goes by that one for as long as it
//! lives. Leaves out: what is signed (`catalog::store`), and the keys of people who sign models.
//!
//! Whoever can write in the root as its owner can read the key too. It tells apart what this registry wrote from what was put
//! there by other means: a disk image that was edited, a backup of another registry, a manifest made by hand.

use crate::digest::{hex, unhex};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, read_bounded};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rustix::fs::OFlags;
use std::fmt;

const PRIVATE: &str = "signing.key";
const PUBLIC: &str = "signing.pub";
/// A PEM file of an Ed25519 key has some 120 bytes.
const MAX_PEM: u64 = 4096;

/// The public half of a registry's key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads an SPKI PEM file's text.
    pub fn from_pem(text: &str) -> Result<PublicKey> {
        VerifyingKey::from_public_key_pem(text)
            .map(PublicKey)
            .map_err(|e| Error::new(ErrorKind::InvalidInput, format!("this is no Ed25519 public key in PEM: {e}")))
    }

    /// The same as text.
    pub fn to_pem(&self) -> Result<String> {
        let failed = |e| Error::new(ErrorKind::Io, format!("the public key cannot be written: {e}"));
        self.0.to_public_key_pem(LineEnding::LF).map_err(failed)
    }

    /// Its 32 bytes, as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex(self.0.as_bytes())
    }

    fn from_hex(text: &str) -> Option<PublicKey> {
        VerifyingKey::from_bytes(&unhex(text)?).ok().map(PublicKey)
    }

    /// Whether the signature is this key's, of this message. Strictly: neither a weak key nor a second form of a signature
    /// passes.
    fn verifies(&self, message: &str, signature: &str) -> bool {
        unhex(signature)
            .is_some_and(|bytes| self.0.verify_strict(message.as_bytes(), &Signature::from_bytes(&bytes)).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_hex())
    }
}

/// What a root says about its key.
#[derive(Default)]
pub(crate) struct Keys {
    /// What everything must be signed by.
    pub(crate) public: Option<PublicKey>,
    private: Option<SigningKey>,
}

impl Keys {
    /// Reads both from the root, as far as they are there. One that is there and cannot be used is an error.
    pub(crate) fn load(layout: &Layout) -> Result<Keys> {
        let unusable = |name: &str, why: &dyn fmt::Display| {
            Error::new(ErrorKind::Manifest, format!("{name} in the root cannot be used: {why}"))
        };
        let read = |name: &'static str, private: bool| -> Result<Option<String>> {
            let file = match layout.read(Folder::Root, name, OFlags::empty()) {
                Ok(file) => file,
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                Err(e) => return Err(unusable(name, &e)),
            };
            let mode = rustix::fs::fstat(&file).map_err(|e| unusable(name, &e))?.st_mode;
            let forbidden = if private { 0o077 } else { 0o022 };
            if mode & forbidden != 0 {
                let remedy = if private { "chmod 600 it" } else { "chmod 644 it" };
                return Err(unusable(name, &format_args!("others may reach it (mode {:o}): {remedy}", mode & 0o7777)));
            }
            let bytes = read_bounded(&file, name, MAX_PEM).map_err(|e| unusable(name, &e))?;
            String::from_utf8(bytes).map(Some).map_err(|_| unusable(name, &"it is not text"))
        };
        let public = match read(PUBLIC, false)? {
            Some(pem) => Some(PublicKey::from_pem(&pem).map_err(|e| unusable(PUBLIC, &e))?),
            None => None,
        };
        let private = match read(PRIVATE, true)? {
            Some(pem) => Some(SigningKey::from_pkcs8_pem(&pem).map_err(|e| unusable(PRIVATE, &e))?),
            None => None,
        };
        match (&public, &private) {
            (Some(public), Some(private)) if private.verifying_key() != public.0 => {
                Err(unusable(PRIVATE, &format_args!("it does not belong to {PUBLIC}")))
            }
            _ => Ok(Keys { public, private }),
        }
    }

    /// Signs, where this root signs.
    ///
    /// # Errors
    /// `Permission` when there must be a signature and the key is not here.
    pub(crate) fn sign(&self, message: &str) -> Result<Option<Signed>> {
        match (&self.private, &self.public) {
            (Some(private), _) => Ok(Some(Signed {
                key: hex(private.verifying_key().as_bytes()),
                signature: hex(&private.sign(message.as_bytes()).to_bytes()),
            })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::new(
                ErrorKind::Permission,
                format!("what is written in this root must be signed, and {PRIVATE} is not there: put it back"),
            )),
        }
    }

    /// Whether a message is signed as this root demands. Without a public key what is not signed passes, and what is must be
    /// good by the key that it names.
    pub(crate) fn check(&self, message: &str, signed: Option<&Signed>) -> std::result::Result<(), &'static str> {
        let Some(signed) = signed else {
            return if self.public.is_some() { Err("it is not signed, and in this root it must be") } else { Ok(()) };
        };
        let named = PublicKey::from_hex(&signed.key).ok_or("the key that it names is none")?;
        if self.public.is_some_and(|public| public != named) {
            return Err("it is signed by another key than this root's");
        }
        if named.verifies(message, &signed.signature) { Ok(()) } else { Err("its signature is not good") }
    }
}

/// A signature, and the key that it names, both in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) key: String,
    pub(crate) signature: String,
}

/// Makes a key, unless one is there: the private one only. Nothing must be signed by it before [`publish`].
pub(crate) fn make(layout: &Layout) -> Result<PublicKey> {
    let keys = Keys::load(layout)?;
    if let Some(public) = keys.public {
        let why = format!("this root has a key already: {}", public.to_hex());
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    // Of an earlier call that did not come to its end.
    if let Some(private) = keys.private {
        return Ok(PublicKey(private.verifying_key()));
    }
    let mut seed = [0u8; 32];
    let mut filled = 0;
    while filled < seed.len() {
        let n = rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty());
        filled += n.map_err(|e| Error::io("asking for random bytes", e))?;
    }
    let private = SigningKey::from_bytes(&seed);
    let pem = private.to_pkcs8_pem(LineEnding::LF);
    let pem = pem.map_err(|e| Error::new(ErrorKind::Io, format!("the key cannot be written: {e}")))?;
    layout.write_durably(Folder::Root, PRIVATE, pem.as_bytes())?;
    Ok(PublicKey(private.verifying_key()))
}

/// From now on everything must be signed by this key.
pub(crate) fn publish(layout: &Layout, public: &PublicKey) -> Result<()> {
    layout.write_durably(Folder::Root, PUBLIC, public.to_pem()?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Access;

    fn root() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::open(&dir.path().join("r"), Access::Create).expect("a root");
        (dir, layout)
    }

    #[test]
    fn what_is_signed_is_told_from_what_is_not_and_from_what_another_key_signed() {
        let (_dir, layout) = root();
        let none = Keys::load(&layout).expect("nothing there");
        assert_eq!((none.sign("m").expect("no key"), none.check("m", None)), (None, Ok(())));
        let public = make(&layout).expect("made");
        assert_eq!(make(&layout).expect("made before"), public, "an earlier call is taken up");
        let half = Keys::load(&layout).expect("loads");
        let signed = half.sign("m").expect("signs").expect("a signature");
        assert_eq!(
            (half.check("m", Some(&signed)), half.check("m", None)),
            (Ok(()), Ok(())),
            "nothing is demanded yet"
        );
        assert!(half.check("n", Some(&signed)).is_err(), "what is signed must be good all the same");

        publish(&layout, &public).expect("published");
        assert_eq!(make(&layout).expect_err("there is one").kind(), ErrorKind::Conflict);
        let keys = Keys::load(&layout).expect("loads");
        assert_eq!(keys.check("m", Some(&signed)), Ok(()));
        let (_other_dir, other_layout) = root();
        make(&other_layout).expect("made");
        let other = Keys::load(&other_layout).expect("loads").sign("m").expect("signs").expect("a signature");
        let changed = |change: &dyn Fn(&mut Signed)| {
            let mut signed = signed.clone();
            change(&mut signed);
            signed
        };
        for (message, bad) in [
            ("n", Some(signed.clone())),
            ("m", None),
            ("m", Some(other.clone())),
            ("m", Some(changed(&|s| s.signature = other.signature.clone()))),
            ("m", Some(changed(&|s| s.key = other.key.clone()))),
            ("m", Some(changed(&|s| s.signature.truncate(126)))),
            ("m", Some(changed(&|s| s.key.clear()))),
        ] {
            assert!(keys.check(message, bad.as_ref()).is_err(), "{message} {bad:?}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_an_error_and_never_none() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, layout) = root();
        publish(&layout, &make(&layout).expect("made")).expect("published");
        let path = |name| layout.path().join(name);
        let mode = |name, mode| {
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).expect("changed");
        };
        for (name, bad, good) in [(PRIVATE, 0o640, 0o600), (PUBLIC, 0o666, 0o600)] {
            mode(name, bad);
            assert_eq!(Keys::load(&layout).map(drop).expect_err("others may reach it").kind(), ErrorKind::Manifest);
            mode(name, good);
            let text = std::fs::read(path(name)).expect("read");
            for junk in [&b"junk"[..], b"", &[0xff; 5000]] {
                std::fs::write(path(name), junk).expect("written");
                assert!(Keys::load(&layout).is_err(), "{name} {junk:?}");
            }
            std::fs::write(path(name), text).expect("written");
            Keys::load(&layout).expect("as before");
        }
        let (_other_dir, other) = root();
        make(&other).expect("made");
        std::fs::copy(other.path().join(PRIVATE), path(PRIVATE)).expect("copied");
        let e = Keys::load(&layout).map(drop).expect_err("of another pair");
        assert!(e.to_string().contains("does not belong"), "{e}");
        std::fs::remove_file(path(PRIVATE)).expect("removed");
        let e = Keys::load(&layout).expect("readers need no private key").sign("m").expect_err("cannot sign");
        assert_eq!(e.kind(), ErrorKind::Permission);
        std::os::unix::fs::symlink("elsewhere", path(PRIVATE)).expect("linked");
        assert!(Keys::load(&layout).is_err(), "a link");
    }
}
