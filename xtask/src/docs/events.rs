//! docs/events.md, from the record of the ring buffer.

use std::path::Path;

use anyhow::Result;
use netbpf_common::abi::ABI;

use super::{maps, source::Source};

pub fn page(common: &Path) -> Result<String> {
    let source = Source::read(&common.join("event.rs"))?;
    let mut page = super::head("Events", "netbpf-common/src/event.rs");
    page.push_str(&format!(
        "
{}

The programs write an event only while `config.events` is not 0 (see
[maps.md](maps.md#config)), so that nobody pays for what nobody reads. While `netbpf monitor` or another client of
`/v1/events` reads, the daemon does: see [seeing.md](seeing.md).
Ports are in the machine's byte order, addresses in network byte order; an IPv4
address is `::ffff:a.b.c.d`. When the buffer is full an event is lost, never a packet; `events_lost` counts.
The layout belongs to version {ABI} of the maps. Reasons are those of
[drops.md](drops.md), kinds those of [maps.md](maps.md#flows).
",
        source.about()
    ));
    maps::constants(&mut page, &source);
    maps::structures(&mut page, &source);
    Ok(page)
}
