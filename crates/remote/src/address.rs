//! Where an address lies.
//!
//! Owns: telling the open network from private ones. Promises: an address that stands for another (IPv4 in IPv6, NAT64, 6to4) is judged
//! by that one; what is in no list of public ones is not public. Leaves out: names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far away an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The open network.
    Public,
    /// A private network.
    Private,
    /// This machine.
    Loopback,
    /// Link-local (clouds answer there with secrets), multicast, unspecified, reserved.
    Special,
}

impl Reach {
    pub(crate) fn of(address: IpAddr) -> Reach {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Whether a registry that is here may send us there: never closer to us than it is itself.
    pub(crate) fn may_lead_to(self, there: Reach) -> bool {
        match there {
            Reach::Public => true,
            Reach::Private => matches!(self, Reach::Private | Reach::Loopback),
            Reach::Loopback => self == Reach::Loopback,
            Reach::Special => false,
        }
    }
}

/// IANA IPv4 Special-Purpose Address Registry.
fn of_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18..=19, ..] => Reach::Private,
        [0, ..] | [169, 254, ..] | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [224..=255, ..] => {
            Reach::Special
        }
        _ => Reach::Public,
    }
}

/// IANA IPv6 Special-Purpose Address Registry; global unicast is 2000::/3.
fn of_v6(address: Ipv6Addr) -> Reach {
    if address == Ipv6Addr::LOCALHOST {
        return Reach::Loopback;
    }
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        of_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0xfc00..=0xfdff, ..] => Reach::Private,
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] => Reach::Special,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_stand_for_others_are_judged_by_those() {
        for (text, reach) in [
            ("1.1.1.1", Reach::Public),
            ("127.9.9.9", Reach::Loopback),
            ("10.0.0.1", Reach::Private),
            ("172.15.0.1", Reach::Public),
            ("172.16.0.1", Reach::Private),
            ("172.31.255.255", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("169.254.169.254", Reach::Special),
            ("0.0.0.0", Reach::Special),
            ("255.255.255.255", Reach::Special),
            ("224.0.0.1", Reach::Special),
            ("::1", Reach::Loopback),
            ("::", Reach::Special),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("::ffff:10.0.0.1", Reach::Private),
            ("::127.0.0.1", Reach::Loopback),
            ("64:ff9b::169.254.169.254", Reach::Special),
            ("2002:7f00:1::", Reach::Loopback),
            ("fd00::1", Reach::Private),
            ("fe80::1", Reach::Special),
            ("ff02::1", Reach::Special),
            ("2001:db8::1", Reach::Special),
            ("2606:4700::1111", Reach::Public),
        ] {
            assert_eq!(Reach::of(text.parse().unwrap()), reach, "{text}");
        }
    }

    #[test]
    fn nobody_leads_us_closer_than_he_is() {
        use Reach::{Loopback, Private, Public, Special};
        for (from, leads) in [
            (Public, [true, false, false, false]),
            (Private, [true, true, false, false]),
            (Loopback, [true, true, true, false]),
            (Special, [true, false, false, false]),
        ] {
            assert_eq!([Public, Private, Loopback, Special].map(|to| from.may_lead_to(to)), leads, "{from:?}");
        }
    }
}
