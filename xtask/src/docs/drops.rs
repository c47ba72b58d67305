//! docs/drops.md, from the one list of reasons.

use std::fmt::Write as _;

use netbpf_common::drop::DropReason;

pub fn page() -> String {
    let mut page = super::head("Drops", "netbpf-common/src/drop.rs");
    page.push_str(
        "
Every packet that netbpf drops is counted under one of these; what comes from or goes
to a container by its veth is counted for its endpoint, too:

```bash
netbpf drops
netbpf drops --endpoint web
netbpf drops --network front -j
```

The number is the index in the map `drops` and stands in events; numbers are never
used again. The name is what the command prints and JSON says.

| number | name | what it means | what to do |
|---:|---|---|---|
",
    );
    for &reason in DropReason::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| {} | `{}` | {} | {} |",
            reason as u8,
            reason.label(),
            reason.text(),
            reason.advice()
        );
    }
    page
}
