//! Values that the command line takes apart by itself. What only the daemon can
//! judge, such as a port spec, is handed to it as it was typed.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

/// `KEY=VALUE`; the value may be empty.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}

/// `10.20.0.0/24`.
pub fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        match (address.parse::<IpAddr>(), length) {
            (Err(_), _) => format!("{address:?} is not an IP address"),
            (Ok(ip), "") => format!("a length is missing, such as {ip}/{}", example(ip)),
            (Ok(ip), _) => {
                let most = if ip.is_ipv4() { 32 } else { 128 };
                format!("{length:?} is not a prefix length from 0 to {most}")
            }
        }
    })
}

fn example(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 24 } else { 64 }
}

/// `10s`, `1m 30s`, `500ms`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let parsed = match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => humantime::parse_duration(text),
    };
    parsed.map_err(|e| format!("{e}; a time is 10s, 1m or 500ms, a number alone is seconds"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subnets_say_what_is_wrong_with_them() {
        assert!(cidr("10.20.0.0/24").is_ok() && cidr("fd00::/64").is_ok());
        for (bad, why) in [
            ("10.0.0.0", "a length is missing, such as 10.0.0.0/24"),
            ("fd00::", "a length is missing, such as fd00::/64"),
            ("10.0.0.0/33", "\"33\" is not a prefix length from 0 to 32"),
            ("fd00::/x", "\"x\" is not a prefix length from 0 to 128"),
            ("10.0.0/8", "\"10.0.0\" is not an IP address"),
        ] {
            assert_eq!(cidr(bad), Err(why.into()), "{bad}");
        }
    }

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        assert_eq!(duration("1"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "soon", "-1", "1.5", "10 parsecs", "99999999999"] {
            let error = duration(bad).expect_err(bad);
            assert!(error.contains("10s"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn labels_are_read_as_written(key in "[^=]{1,20}", value in "\\PC{0,20}") {
            prop_assert_eq!(label(&format!("{key}={value}")), Ok((key, value)));
        }

        #[test]
        fn what_is_no_label_is_refused(text in "[^=]{0,20}") {
            prop_assert!(label(&text).is_err());
        }

        #[test]
        fn any_text_is_a_time_or_refused(text in "\\PC{0,20}") {
            let _ = duration(&text);
        }

        #[test]
        fn times_are_read_as_written(seconds in 0_u64..10_000_000, millis in 0_u32..1000) {
            let time = Duration::from_secs(seconds) + Duration::from_millis(millis.into());
            prop_assert_eq!(duration(&humantime::format_duration(time).to_string()), Ok(time));
        }
    }
}
