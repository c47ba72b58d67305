//! The names of things in etcd: `PREFIX/networks/NAME` and so on (docs/cluster.md).

use std::{fmt::Write as _, net::IpAddr};

use ipnet::IpNet;

/// A thing that has a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Network(String),
    Vni(u32),
    Node(String),
    Alive(String),
    Drained(String),
    Block { network: String, block: IpNet },
    Address { network: String, ip: IpAddr },
    Endpoint { network: String, name: String },
}

/// Keys below a prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Keys {
        Keys {
            prefix: prefix.into(),
        }
    }

    /// What all keys begin with.
    pub fn all(&self) -> String {
        format!("{}/", self.prefix)
    }

    pub fn networks(&self) -> String {
        format!("{}/networks/", self.prefix)
    }

    pub fn vnis(&self) -> String {
        format!("{}/vnis/", self.prefix)
    }

    pub fn blocks_of(&self, network: &str) -> String {
        format!("{}/blocks/{}/", self.prefix, encode(network))
    }

    pub fn addresses_of(&self, network: &str) -> String {
        format!("{}/addresses/{}/", self.prefix, encode(network))
    }

    pub fn endpoints_of(&self, network: &str) -> String {
        format!("{}/endpoints/{}/", self.prefix, encode(network))
    }

    pub fn of(&self, key: &Key) -> String {
        let prefix = &self.prefix;
        match key {
            Key::Network(name) => format!("{prefix}/networks/{}", encode(name)),
            Key::Vni(vni) => format!("{prefix}/vnis/{vni}"),
            Key::Node(name) => format!("{prefix}/nodes/{}", encode(name)),
            Key::Alive(name) => format!("{prefix}/alive/{}", encode(name)),
            Key::Drained(name) => format!("{prefix}/drained/{}", encode(name)),
            // A slash would make a level of it.
            Key::Block { network, block } => {
                format!(
                    "{}{}-{}",
                    self.blocks_of(network),
                    block.addr(),
                    block.prefix_len()
                )
            }
            Key::Address { network, ip } => format!("{}{ip}", self.addresses_of(network)),
            Key::Endpoint { network, name } => {
                format!("{}{}", self.endpoints_of(network), encode(name))
            }
        }
    }

    /// `None` for what this version does not write, other spellings of an address among
    /// them: one thing must not have two keys.
    pub fn parse(&self, raw: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(raw).ok()?;
        let rest = text.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        let key = match parts[..] {
            ["networks", name] => Key::Network(decode(name)?),
            ["vnis", vni] => Key::Vni(vni.parse().ok()?),
            ["nodes", name] => Key::Node(decode(name)?),
            ["alive", name] => Key::Alive(decode(name)?),
            ["drained", name] => Key::Drained(decode(name)?),
            ["blocks", network, block] => Key::Block {
                network: decode(network)?,
                block: parse_block(block)?,
            },
            ["addresses", network, ip] => Key::Address {
                network: decode(network)?,
                ip: ip.parse().ok()?,
            },
            ["endpoints", network, name] => Key::Endpoint {
                network: decode(network)?,
                name: decode(name)?,
            },
            _ => return None,
        };
        (self.of(&key) == text).then_some(key)
    }
}

fn parse_block(text: &str) -> Option<IpNet> {
    let (address, length) = text.rsplit_once('-')?;
    let block = IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()?;
    (block.trunc() == block).then_some(block)
}

/// Names as they are, but for what would be taken for something else in a key.
fn encode(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b':' | b'@' | b'+' => {
                text.push(byte.into());
            }
            // Writing to a string does not fail.
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let hex = [*high, *low];
                let hex = std::str::from_utf8(&hex).ok()?;
                bytes.push(u8::from_str_radix(hex, 16).ok()?);
                rest = tail;
            }
            (b'%', _) => return None,
            (byte, tail) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("/netbpf/v1")
    }

    #[test]
    fn keys_are_as_documented() {
        let network = || "front".to_owned();
        for (key, text) in [
            (Key::Network(network()), "networks/front"),
            (Key::Vni(7), "vnis/7"),
            (Key::Node("n1".into()), "nodes/n1"),
            (Key::Alive("n1".into()), "alive/n1"),
            (Key::Drained("n1".into()), "drained/n1"),
            (
                Key::Block {
                    network: network(),
                    block: "10.7.0.64/26".parse().unwrap(),
                },
                "blocks/front/10.7.0.64-26",
            ),
            (
                Key::Block {
                    network: network(),
                    block: "fd00:7::40/122".parse().unwrap(),
                },
                "blocks/front/fd00:7::40-122",
            ),
            (
                Key::Address {
                    network: network(),
                    ip: "fd00:7::1".parse().unwrap(),
                },
                "addresses/front/fd00:7::1",
            ),
            (
                Key::Endpoint {
                    network: network(),
                    name: "a/b c%".into(),
                },
                "endpoints/front/a%2Fb%20c%25",
            ),
        ] {
            let text = format!("/netbpf/v1/{text}");
            assert_eq!(keys().of(&key), text);
            assert_eq!(keys().parse(text.as_bytes()), Some(key), "{text}");
        }
    }

    #[test]
    fn what_nobody_of_this_version_writes_is_no_key() {
        for text in [
            "/netbpf/v1",
            "/netbpf/v1/",
            "/netbpf/v1/networks/",
            "/netbpf/v1/networks/a/b",
            "/netbpf/v1/networks/a%2",
            "/netbpf/v1/networks/%61",
            "/netbpf/v1/networks/%zz",
            "/netbpf/v1/vnis/07",
            "/netbpf/v1/vnis/x",
            "/netbpf/v1/colours/red",
            "/netbpf/v1/blocks/front/10.7.0.65-26",
            "/netbpf/v1/blocks/front/10.7.0.64/26",
            "/netbpf/v1/addresses/front/fd00:0007::1",
            "/netbpf/v2/networks/a",
            "/netbpf/v1x/networks/a",
        ] {
            assert_eq!(keys().parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(keys().parse(b"/netbpf/v1/networks/\xff"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_name_comes_back(network in "\\PC{1,20}", name in ".{1,20}") {
            let key = Key::Endpoint { network, name };
            let text = keys().of(&key);
            proptest::prop_assert_eq!(keys().parse(text.as_bytes()), Some(key));
        }

        #[test]
        fn any_bytes_are_a_key_or_none(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
            let mut raw = b"/netbpf/v1/".to_vec();
            raw.extend(bytes);
            if let Some(key) = keys().parse(&raw) {
                let text = keys().of(&key);
                proptest::prop_assert_eq!(text.as_bytes(), raw.as_slice());
            }
        }
    }
}
