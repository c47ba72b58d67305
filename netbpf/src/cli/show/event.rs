//! Events, a line each.

use crate::{
    cli::output::Show,
    model::{EventInfo, EventKind},
};

impl Show for EventInfo {
    fn human(&self, _: Option<u16>) -> String {
        let mut words = vec![self.time.clone(), what(self)];
        let optional = [&self.reason, &self.kind, &self.protocol];
        words.extend(optional.into_iter().flatten().cloned());
        words.extend(arrow(self.src.as_ref(), self.dst.as_ref()));
        // What it leaves with is the answers' tuple turned round.
        if let Some(left) = arrow(self.reply_dst.as_ref(), self.reply_src.as_ref()) {
            words.extend(["as".into(), left]);
        }
        match (&self.endpoint, &self.network) {
            (Some(endpoint), Some(network)) => words.push(format!("{endpoint}@{network}")),
            _ if self.event == EventKind::Lost => {}
            _ => words.push("-".into()),
        }
        if let Some(device) = &self.device {
            words.extend(["by".into(), device.clone()]);
        }
        if let Some(length) = self.length {
            words.push(format!("{length}B"));
        }
        words.join(" ") + "\n"
    }

    /// An event has no name but what it is and its tuple.
    fn names(&self) -> Vec<String> {
        let tuple = arrow(self.src.as_ref(), self.dst.as_ref());
        let words = [Some(what(self)), self.reason.clone(), tuple];
        let words: Vec<String> = words.into_iter().flatten().collect();
        vec![words.join(" ")]
    }
}

fn what(event: &EventInfo) -> String {
    match (event.event, event.lost) {
        (EventKind::New, _) => "new".into(),
        (EventKind::Close, _) => "close".into(),
        (EventKind::Drop, _) => "drop".into(),
        (EventKind::Lost, events) => format!("lost {} events", events.unwrap_or(0)),
    }
}

fn arrow(from: Option<&String>, to: Option<&String>) -> Option<String> {
    Some(format!("{} -> {}", from?, to?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> EventInfo {
        EventInfo {
            time: "2026-01-02T03:04:05.000006Z".into(),
            event: EventKind::New,
            reason: None,
            endpoint: Some("web".into()),
            network: Some("front".into()),
            device: Some("up0".into()),
            kind: Some("publish".into()),
            family: Some("ipv4".into()),
            protocol: Some("tcp".into()),
            src: Some("192.0.2.2:4000".into()),
            dst: Some("192.0.2.1:8080".into()),
            reply_src: Some("10.10.1.2:80".into()),
            reply_dst: Some("192.0.2.2:4000".into()),
            length: Some(74),
            lost: None,
        }
    }

    #[test]
    fn an_event_is_a_line() {
        assert_eq!(
            new().human(None),
            "2026-01-02T03:04:05.000006Z new publish tcp 192.0.2.2:4000 -> 192.0.2.1:8080 \
             as 192.0.2.2:4000 -> 10.10.1.2:80 web@front by up0 74B\n"
        );
        assert_eq!(new().names(), ["new 192.0.2.2:4000 -> 192.0.2.1:8080"]);
        let drop = EventInfo {
            event: EventKind::Drop,
            reason: Some("spoofed_mac".into()),
            endpoint: None,
            kind: None,
            protocol: None,
            src: None,
            reply_src: None,
            ..new()
        };
        let line = drop.human(None);
        assert!(
            line.ends_with("Z drop spoofed_mac - by up0 74B\n"),
            "{line}"
        );
    }

    #[test]
    fn what_was_lost_is_said_with_its_number() {
        let lost = EventInfo {
            event: EventKind::Lost,
            reason: Some("slow_reader".into()),
            lost: Some(7),
            endpoint: None,
            device: None,
            kind: None,
            protocol: None,
            src: None,
            reply_src: None,
            length: None,
            ..new()
        };
        let line = lost.human(None);
        assert!(line.ends_with("Z lost 7 events slow_reader\n"), "{line}");
    }
}
