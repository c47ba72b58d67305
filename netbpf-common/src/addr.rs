//! Addresses as they stand in packets (network byte order) and in map keys.
//!
//! Tables of configuration use one 16-byte form, [`Addr`], in which an IPv4
//! address is v4-mapped (RFC 4291 section 2.5.5.2). Flow tables are per family,
//! since there the length of the key is paid per packet
//! (docs/decisions/0001-address-form.md).

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`; network byte order.
pub type Addr = [u8; 16];

/// An IPv4 address in network byte order.
pub type Addr4 = [u8; 4];

/// An IPv6 address in network byte order.
pub type Addr6 = [u8; 16];

/// The address of a family: [`Addr4`] or [`Addr6`], and nothing else, so that what holds for
/// the layout of both holds for all.
pub trait OfFamily: sealed::Sealed + Copy + 'static {}

impl OfFamily for Addr4 {}
impl OfFamily for Addr6 {}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Addr4 {}
    impl Sealed for super::Addr6 {}
}

/// The IPv4 or IPv6 wildcard in a key that means "any address of the host".
pub const ANY: Addr = [0; 16];

/// The v4-mapped form of an IPv4 address.
#[inline(always)]
pub const fn mapped(v4: Addr4) -> Addr {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// The IPv4 address inside a v4-mapped one, if it is one.
#[inline(always)]
pub const fn unmapped(addr: Addr) -> Option<Addr4> {
    match addr {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_survives_the_mapped_form() {
        assert_eq!(unmapped(mapped([192, 0, 2, 1])), Some([192, 0, 2, 1]));
        assert_eq!(unmapped([0; 16]), None);
    }
}
