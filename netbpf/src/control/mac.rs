//! MAC addresses of endpoints: read, and made.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    datapath::GATEWAY_MAC,
    error::{Error, Result},
    sys::process,
};

/// `xx:xx:xx:xx:xx:xx`, unicast and not all zero.
pub fn parse(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let parsed = mac.iter_mut().all(|byte| match parts.next() {
        Some(part) if part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u8::from_str_radix(part, 16).map(|b| *byte = b).is_ok()
        }
        _ => false,
    });
    if !parsed || parts.next().is_some() {
        return Err(Error::invalid(format!(
            "MAC address {text:?} is not of the form xx:xx:xx:xx:xx:xx"
        )));
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Error::invalid(format!(
            "MAC address {text:?} cannot be a device's"
        )));
    }
    if mac == GATEWAY_MAC {
        return Err(Error::invalid(format!(
            "MAC address {text:?} is that of every gateway"
        )));
    }
    Ok(mac)
}

/// 02:42 and the IPv4 address, or random where there is none: locally
/// administered, and unlike any other endpoint's.
pub fn make(ipv4: Option<IpNet>) -> Result<[u8; 6]> {
    let rest = match ipv4.map(|net| net.addr()) {
        Some(IpAddr::V4(address)) => address.octets(),
        _ => process::random()?,
    };
    Ok([0x02, 0x42, rest[0], rest[1], rest[2], rest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn macs_are_those_of_devices() {
        assert_eq!(
            parse("02:42:0a:00:00:FF").unwrap(),
            [2, 0x42, 10, 0, 0, 255]
        );
        for bad in [
            "",
            "02:42:0a:00:00",
            "02:42:0a:00:00:02:03",
            "02-42-0a-00-00-02",
            "01:00:5e:00:00:01",
            "02:6e:65:74:62:70",
            "00:00:00:00:00:00",
            "2:42:a:0:0:2",
            "0g:42:0a:00:00:02",
        ] {
            let error = parse(bad).expect_err(bad);
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains(&format!("{bad:?}")));
        }
    }

    proptest::proptest! {
        #[test]
        fn macs_are_read_as_written(mut mac: [u8; 6]) {
            // Of a device: not of a group, not nobody's, not the gateways'.
            mac[0] = mac[0] & !1 | 4;
            let text = mac.map(|byte| format!("{byte:02X}")).join(":");
            proptest::prop_assert_eq!(parse(&text).ok(), Some(mac));
        }

        #[test]
        fn any_text_is_a_mac_or_refused_by_its_value(text in "([0-9a-fA-F:.-]{0,20}|\\PC{0,20})") {
            if let Err(error) = parse(&text) {
                proptest::prop_assert!(error.message.contains(&format!("{text:?}")), "{error}");
            }
        }
    }

    #[test]
    fn a_mac_is_made_of_the_address() {
        let mac = make(Some("10.1.2.3/24".parse().unwrap())).unwrap();
        assert_eq!(mac, [2, 0x42, 10, 1, 2, 3]);
        assert_eq!(make(None).unwrap()[..2], [2, 0x42]);
    }
}
