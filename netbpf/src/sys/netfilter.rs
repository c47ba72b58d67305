//! What the host's firewall does with packets that no rule of it matches: the base
//! chains of nftables, which iptables-nft makes, too. Rules are not read.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkPayload,
    NetlinkSerializable,
};

use super::{Result, SysError, netlink::Connection};

/// A chain that packets of the host itself run through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    pub table: String,
    pub name: String,
    pub hook: Hook,
    /// What no rule decides is dropped.
    pub drops: bool,
}

/// Where packets that are for the host's own programs, or come from them, pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Output,
}

impl Hook {
    pub const fn label(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Output => "output",
        }
    }

    /// `NF_INET_*`.
    const fn from_number(number: u32) -> Option<Hook> {
        match number {
            0 => Some(Hook::Prerouting),
            1 => Some(Hook::Input),
            3 => Some(Hook::Output),
            _ => None,
        }
    }
}

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`, and its answer.
const GET_CHAIN: u16 = 10 << 8 | 4;
const NEW_CHAIN: u16 = 10 << 8 | 3;
/// `NFTA_CHAIN_*` and `NFTA_HOOK_HOOKNUM`.
const TABLE: u16 = 1;
const NAME: u16 = 3;
const HOOK: u16 = 4;
const POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
/// `NF_DROP`.
const DROP: u32 = 0;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

/// The chains of this namespace that see the host's own packets; none where the kernel
/// has no nftables.
pub fn base_chains() -> Result<Vec<BaseChain>> {
    let failed = |e: io::Error| SysError::io("list the chains of nftables", e);
    let mut connection = match Connection::open(NETLINK_NETFILTER) {
        Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let request = Message {
        kind: GET_CHAIN,
        bytes: vec![0; HEADER],
    };
    let chain = |answer: Message| match answer.kind {
        NEW_CHAIN => parse(&answer.bytes),
        _ => None,
    };
    match connection.dump(&request, NLM_F_REQUEST | NLM_F_DUMP, chain) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        chains => chains.map_err(failed),
    }
}

fn parse(bytes: &[u8]) -> Option<BaseChain> {
    let family = match bytes.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let attributes = bytes.get(HEADER..)?;
    let text = |kind| {
        let value = find(attributes, kind)?;
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let hook = number(find(find(attributes, HOOK)?, HOOK_NUMBER)?)?;
    Some(BaseChain {
        family,
        table: text(TABLE)?,
        name: text(NAME)?,
        hook: Hook::from_number(hook)?,
        drops: find(attributes, POLICY).and_then(number) == Some(DROP),
    })
}

/// The value of the first attribute of that kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((header, _)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The upper two bits say nested and byte order.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// A message of nfnetlink as it is on the wire.
#[derive(Clone, Debug)]
struct Message {
    kind: u16,
    bytes: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Message {
            kind: header.message_type,
            bytes: payload.into(),
        })
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        NetlinkPayload::InnerMessage(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (value.len() + 4) as u16;
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn chain(family: u8, hook: Option<u32>, policy: u32) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0];
        bytes.extend(attribute(TABLE, b"filter\0"));
        bytes.extend(attribute(NAME, b"INPUT\0"));
        if let Some(hook) = hook {
            let number = attribute(HOOK_NUMBER, &hook.to_be_bytes());
            // NLA_F_NESTED.
            bytes.extend(attribute(HOOK | 0x8000, &number));
            bytes.extend(attribute(POLICY, &policy.to_be_bytes()));
        }
        bytes
    }

    #[test]
    fn a_chain_is_read() {
        let found = parse(&chain(2, Some(1), DROP)).unwrap();
        let expected = BaseChain {
            family: "ip",
            table: "filter".into(),
            name: "INPUT".into(),
            hook: Hook::Input,
            drops: true,
        };
        assert_eq!(found, expected);
        assert!(!parse(&chain(1, Some(3), 1)).unwrap().drops);
    }

    #[test]
    fn chains_that_concern_no_program_of_the_host_are_passed_over() {
        // Without a hook, of bridges, and what is forwarded.
        for bytes in [
            chain(2, None, 0),
            chain(7, Some(1), 0),
            chain(2, Some(2), 0),
        ] {
            assert_eq!(parse(&bytes), None);
        }
        assert_eq!(parse(&[2, 0, 0, 0, 99]), None);
    }
}
