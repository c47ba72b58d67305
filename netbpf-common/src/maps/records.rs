//! `records`: copies of what the daemon's store has of networks and endpoints. No program
//! looks at them: they are for a daemon whose files were damaged or lost, and live as long
//! as the datapath that they describe.

use crate::assert_layout;

/// Bytes of a record in one entry. An entry with its key fills 1,024 bytes of the kernel.
pub const RECORD_BYTES: usize = 936;

/// Key of `records`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// Which table of the store. 0: the entry that says that there is a copy of each record.
    pub table: u32,
    /// A record of more than [`RECORD_BYTES`] has several, from 0 on.
    pub part: u32,
    /// Hash of the record's key in its table.
    pub record: u64,
}
assert_layout!(RecordKey, 16);

/// Value of `records`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPart {
    /// Hash of the whole record: parts that do not have the same are not of one.
    pub digest: u64,
    /// Bytes of the whole record, its key among them.
    pub length: u32,
    /// Of these, those of its key, which come first.
    pub key_length: u32,
    /// The key, and JSON behind it.
    pub bytes: [u8; RECORD_BYTES],
    /// As a later version might have it, for tests of upgrades.
    #[cfg(feature = "next-layout")]
    pub next: u64,
}
#[cfg(not(feature = "next-layout"))]
assert_layout!(RecordPart, 952);
#[cfg(feature = "next-layout")]
assert_layout!(RecordPart, 960);

impl RecordPart {
    /// Some bytes of a record that has so many in all, its key's among them.
    pub fn new(digest: u64, length: u32, key_length: u32, some: &[u8]) -> RecordPart {
        let mut bytes = [0; RECORD_BYTES];
        for (to, from) in bytes.iter_mut().zip(some) {
            *to = *from;
        }
        RecordPart {
            digest,
            length,
            key_length,
            bytes,
            #[cfg(feature = "next-layout")]
            next: 0,
        }
    }
}
