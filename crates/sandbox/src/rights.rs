//! Capabilities.
//!
//! Owns: which of them a thread keeps. Promises: what is not named is gone from every set that could bring it back: effective,
//! permitted, inheritable, ambient and, where that is allowed, bounding. Leaves out: who needs which.

use rustix::thread::{CapabilitySet, CapabilitySets};

/// A capability that one of the daemons may need (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// CAP_CHOWN.
    Chown,
    /// CAP_DAC_OVERRIDE.
    DacOverride,
    /// CAP_FOWNER.
    Fowner,
    /// CAP_LEASE.
    Lease,
    /// CAP_LINUX_IMMUTABLE.
    LinuxImmutable,
    /// CAP_NET_BIND_SERVICE.
    NetBindService,
    /// CAP_SYS_ADMIN.
    SysAdmin,
}

impl Capability {
    fn set(self) -> CapabilitySet {
        match self {
            Capability::Chown => CapabilitySet::CHOWN,
            Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
            Capability::Fowner => CapabilitySet::FOWNER,
            Capability::Lease => CapabilitySet::LEASE,
            Capability::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
            Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
            Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        }
    }
}

/// Whether this thread may use `capability` now.
pub fn holds(capability: Capability) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability.set()))
}

/// Drops all but `kept`.
pub(crate) fn keep(kept: &[Capability]) -> Result<(), String> {
    let said = |what: &'static str| move |e: rustix::io::Errno| format!("{what}: {e}");
    let had = rustix::thread::capabilities(None).map_err(said("capget"))?;
    let wanted = kept.iter().fold(CapabilitySet::empty(), |all, one| all | one.set());
    let left = had.permitted & wanted;
    rustix::thread::clear_ambient_capability_set().map_err(said("clearing the ambient set"))?;
    // Dropping from the bounding set needs CAP_SETPCAP, and without new privileges nothing could come back from there anyway.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if rustix::thread::capability_is_in_bounding_set(one) == Ok(true) && !wanted.contains(one) {
                rustix::thread::remove_capability_from_bounding_set(one).map_err(said("the bounding set"))?;
            }
        }
    }
    if (had.permitted | had.inheritable).difference(left).is_empty() {
        // Nothing to drop, and a service manager may have forbidden the call.
        return Ok(());
    }
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(said("capset"))
}

/// The names of those this thread has.
pub(crate) fn held() -> Vec<String> {
    rustix::thread::capabilities(None).map(|sets| names(sets.permitted.bits())).unwrap_or_default()
}

/// The names of a mask as /proc shows it; a bit that this program has no name for by its number.
pub(crate) fn names(mask: u64) -> Vec<String> {
    let named = CapabilitySet::from_bits_retain(mask);
    let mut names: Vec<String> = named.iter_names().map(|(name, _)| name.to_owned()).collect();
    let known = named.iter_names().fold(0, |all, (_, one)| all | one.bits());
    names.extend((0..64).filter(|bit| mask & !known & (1 << bit) != 0).map(|bit| format!("{bit}")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_mask_is_named() {
        assert_eq!(names(0), [""; 0]);
        assert_eq!(names(1 << 21 | 1), ["CHOWN", "SYS_ADMIN"]);
        assert_eq!(names(1 << 60 | 1 << 9), ["LINUX_IMMUTABLE", "60"]);
    }
}
