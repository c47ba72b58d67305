//! The live view: its figures, and how it leaves a terminal.
//!
//! ```text
//!   web, app ── front ── host ──── client
//! ```

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use netbpf_tests::lab::{
    Background, Container, Family, Host, binary, street_with_networks, within,
};
use nix::{
    poll::{PollFd, PollFlags, poll},
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};
use serde_json::Value;

/// Echoes of 1,000 bytes, a hundred a second, until it is dropped.
fn echoes(from: &Container, to: &Container) -> Background {
    let address = to.addr(Family::V4).to_string();
    let ping = ["ping", "-i", "0.01", "-s", "1000", "-w", "20", &address];
    from.run(&ping).timeout(Duration::from_secs(25)).spawn()
}

#[test]
fn rates_are_those_of_the_traffic() {
    let street = street_with_networks("top_rates", &[]);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    let idle = street.back("idle", &[]);
    let host = &street.host;
    let ping = echoes(&app, &web);
    let rates = |flags: &[&str]| -> Value {
        let line = [&["top", "--count", "1", "--interval", "500ms"], flags].concat();
        host.json(&line)
    };
    within(Duration::from_secs(5), "it pings", || {
        rates(&[])["rx_packet_rate"].as_u64() > Some(20)
    });
    let top = rates(&[]);
    let endpoints = top["endpoints"].as_array().expect("an array");
    let names: Vec<_> = endpoints.iter().map(|e| e["name"].as_str()).collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names[2], Some(idle.endpoint()), "{top}");
    for busy in &endpoints[..2] {
        let rate = |what: &str| busy[what].as_u64().expect(what);
        for way in ["rx", "tx"] {
            let (bits, packets) = (
                rate(&format!("{way}_rate")),
                rate(&format!("{way}_packet_rate")),
            );
            assert!((5..=200).contains(&packets), "{busy}");
            // 14 of Ethernet, 20 of IPv4, 8 of ICMP.
            let each = bits as f64 / packets as f64 / 8.0;
            assert!(
                (each - 1042.0).abs() < 100.0,
                "{each} bytes a packet: {busy}"
            );
        }
    }
    let of_back = rates(&["--network", "back"]);
    assert_eq!(of_back["endpoints"].as_array().map(Vec::len), Some(1));
    assert_eq!(of_back["rx_rate"], 0);
    ping.signal(Signal::SIGINT);
    ping.wait();
    refusals(host);
}

fn refusals(host: &Host) {
    let unknown = host
        .netbpf(&["top", "--network", "nowhere", "--count", "1"])
        .exits(1);
    assert!(
        unknown.stderr.contains("network \"nowhere\" not found"),
        "{unknown}"
    );
    let hasty = host.netbpf(&["top", "--interval", "1ms"]).exits(2);
    assert!(hasty.stderr.contains("less than 100ms"), "{hasty}");
}

#[test]
fn on_a_terminal_it_is_a_screen_and_is_gone_at_the_end() {
    let street = street_with_networks("top_screen", &[]);
    let _web = street.front("web", &[]);
    for (end, how) in [("q", "a key"), ("\u{3}", "Ctrl-C"), ("", "SIGTERM")] {
        let mut screen = Screen::of(&street.host, "top");
        screen.until("q quit");
        screen.until("web");
        screen.until("by total:");
        screen.press("d");
        screen.until("by drops:");
        match end {
            "" => screen.signal(Signal::SIGTERM),
            keys => screen.press(keys),
        }
        let text = screen.end();
        let left = text
            .find(LEAVE)
            .unwrap_or_else(|| panic!("{how}: {text:?}"));
        assert!(
            text.find(ENTER).is_some_and(|entered| entered < left),
            "{how}: {text:?}"
        );
        assert_eq!(&text[left + LEAVE.len()..], "", "{how}");
    }
    // The daemon is gone: it is said below what was there before.
    let mut screen = Screen::of(&street.host, "top");
    screen.until("web");
    street.host.stop();
    let text = screen.ended(3);
    let after = text.rsplit_once(LEAVE).expect("it leaves").1;
    assert!(after.starts_with("netbpf: no daemon answers"), "{after:?}");
}

/// To the alternate screen, and back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// A command on a terminal of its own, 60 columns and 12 lines.
struct Screen {
    master: File,
    slave: OwnedFd,
    before: Termios,
    process: Child,
    text: String,
}

impl Screen {
    fn of(host: &Host, command: &str) -> Screen {
        let size = Winsize {
            ws_row: 12,
            ws_col: 60,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("a terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let process = Command::new(binary())
            .args(["--socket", &host.socket().display().to_string(), command])
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("start it");
        Screen {
            before: tcgetattr(&pty.slave).expect("its settings"),
            master: pty.master.into(),
            slave: pty.slave,
            process,
            text: String::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("type");
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// Reads until this is shown.
    #[track_caller]
    fn until(&mut self, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.text.contains(wanted) {
            assert!(
                Instant::now() < deadline,
                "no {wanted:?} in {:?}",
                self.text
            );
            self.read();
        }
    }

    /// Whether there was something.
    fn read(&mut self) -> bool {
        let mut ready = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, 50_u8).expect("poll") > 0 {
            let mut bytes = [0; 4096];
            let length = self.master.read(&mut bytes).expect("read");
            self.text += &String::from_utf8_lossy(&bytes[..length]);
            return length > 0;
        }
        false
    }

    #[track_caller]
    fn end(self) -> String {
        self.ended(0)
    }

    /// Waits for the end with that code; all that was shown. The terminal is as it was.
    #[track_caller]
    fn ended(mut self, code: i32) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("our child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on: {:?}", self.text);
            self.read();
        };
        while self.read() {}
        assert_eq!(status.code(), Some(code), "{:?}", self.text);
        assert_eq!(tcgetattr(&self.slave).expect("its settings"), self.before);
        std::mem::take(&mut self.text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
