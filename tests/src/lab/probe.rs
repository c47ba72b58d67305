//! What a program sees of its own sockets: calls of `netbpf-probe` in a namespace.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Background, Cmd, Namespace, SOON, Seen, within};

/// What a probe was told. Addresses are `ip:port`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// `getsockname`.
    pub local: Option<String>,
    /// `getpeername`.
    pub peer: Option<String>,
    /// `recvfrom`.
    pub from: Option<String>,
    /// How the server saw a datagram's sender.
    pub seen: Option<String>,
    /// How the server saw a connection.
    pub page: Option<Seen>,
}

fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    // target/debug/deps/test-0a1b → target/debug/netbpf-probe
    let directory = test.ancestors().nth(2).expect("in a directory of cargo's");
    let path = directory.join("netbpf-probe");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

impl Namespace {
    /// A call of the probe, by a program of this namespace.
    pub fn probe(&self, arguments: &[&str]) -> Cmd {
        let mut argv = vec![binary().display().to_string()];
        argv.extend(arguments.iter().map(|&a| a.to_owned()));
        self.run(&argv)
    }

    /// What the program hears; with `bind` from a socket that is bound to it.
    #[track_caller]
    pub fn heard(&self, call: &str, to: SocketAddr, bind: Option<SocketAddr>) -> Heard {
        let (to, bind) = (to.to_string(), bind.map(|b| b.to_string()));
        let mut arguments = vec![call, &to];
        if let Some(bind) = &bind {
            arguments.extend(["--bind", bind]);
        }
        let output = self.probe(&arguments).exits(0);
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("no probe ({e}): {output}"))
    }

    /// A program of this namespace that answers datagrams at that address.
    #[track_caller]
    pub fn serve_udp(&self, address: &str) -> Background {
        let service = self.probe(&["udp-echo", address]).spawn();
        let what = format!("{address} is served");
        within(SOON, &what, || service.stdout().contains("there"));
        service
    }

    /// A connection that a program holds open, once a line went there and back.
    #[track_caller]
    pub fn hold(&self, to: SocketAddr) -> Held {
        let held = Held(self.probe(&["hold", &to.to_string()]).spawn());
        within(SOON, "the connection is open", || {
            held.0.stdout().contains("open")
        });
        held
    }
}

/// A connection that is held open.
pub struct Held(Background);

impl Held {
    /// Whether it is open still.
    pub fn is_open(&mut self) -> bool {
        self.0.is_running()
    }

    /// How it ended: the error's name, or nothing for an end in order.
    #[track_caller]
    pub fn ended(self) -> String {
        self.0.wait().stderr.trim().to_owned()
    }
}
