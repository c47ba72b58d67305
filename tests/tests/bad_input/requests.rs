//! What comes on the socket, and sockets that nobody, or not everybody, may use.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use netbpf_tests::lab::{call, street, street_with_networks, within};
use serde_json::Value;

use crate::frame::Traces;

#[test]
fn what_comes_on_the_socket() {
    let street = street_with_networks("bad_requests", &[]);
    let host = &street.host;
    let before = Traces::of(host);
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(netbpf::api::MAX_BODY));
    let rows: [(&str, &str, &str, u16, &str); 17] = [
        ("POST", "/v1/networks", "", 400, "line 1"),
        ("POST", "/v1/networks", "name=n", 400, "line 1"),
        ("POST", "/v1/networks", "[]", 400, "body"),
        ("POST", "/v1/networks", "null", 400, "body"),
        ("POST", "/v1/networks", r#"{"name":"n""#, 400, "EOF"),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n"} {}"#,
            400,
            "trailing",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n","subnt":[]}"#,
            400,
            "unknown field `subnt`",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n","name":"m"}"#,
            400,
            "duplicate field `name`",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n","labels":{"a":1}}"#,
            400,
            "labels",
        ),
        ("POST", "/v1/networks", &large, 413, "1048576"),
        (
            "POST",
            "/v1/endpoints",
            r#"{"name":"n","netns":{"pid":1,"netns":"a"}}"#,
            400,
            "netns",
        ),
        (
            "POST",
            "/v1/endpoints",
            r#"{"name":"n","netns":"a"}"#,
            400,
            "netns",
        ),
        (
            "POST",
            "/v1/endpoints/web/ports",
            r#"{"publish":[]}"#,
            400,
            "no port",
        ),
        (
            "POST",
            "/v1/endpoints/web/ports",
            r#"{"publish":[80]}"#,
            400,
            "publish[0]",
        ),
        (
            "GET",
            "/v1/drops?endpont=web",
            "",
            400,
            "unknown field `endpont`",
        ),
        ("GET", "/v2/networks", "", 404, "/v2/networks"),
        ("PATCH", "/v1/networks/front", "{}", 405, "PATCH"),
    ];
    for (method, path, body, status, says) in rows {
        let answer = call(&host.socket(), method, path, body.as_bytes());
        let wanted = if status == 404 {
            "not_found"
        } else {
            "invalid_argument"
        };
        let shown = body.get(..60).unwrap_or(body);
        assert_eq!(
            (answer.status, answer.code()),
            (status, wanted),
            "{method} {path} {shown}: {}",
            answer.body
        );
        assert!(
            answer.message().contains(says),
            "{says:?} is missing: {}",
            answer.body
        );
        assert!(!answer.message().contains('\n'), "{}", answer.body);
    }
    assert_eq!(Traces::of(host), before);
}

#[test]
fn requests_that_are_no_http() {
    let street = street("no_http");
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        &[b'A'; 100_000],
    ] {
        let mut stream = UnixStream::connect(street.host.socket()).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a limit");
        _ = stream.write_all(bytes);
        _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    street.host.netbpf(&["status"]).ok();
    assert!(
        !street.host.log().contains("panicked"),
        "{}",
        street.host.log()
    );
}

/// One connection, for one request after the other.
struct Flood {
    asks: UnixStream,
    answers: BufReader<UnixStream>,
}

struct Answer {
    status: String,
    /// Whether it says when to come again.
    retry: bool,
    body: Vec<u8>,
}

impl Flood {
    fn begin(socket: &Path) -> Flood {
        let asks = UnixStream::connect(socket).expect("connect");
        let limit = Some(Duration::from_secs(30));
        asks.set_read_timeout(limit).expect("a limit");
        let answers = BufReader::new(asks.try_clone().expect("dup"));
        Flood { asks, answers }
    }

    /// Asks for a change, and waits for the answer.
    fn ask(&mut self) -> Answer {
        let request = b"DELETE /v1/networks/nobody HTTP/1.1\r\nHost: x\r\n\r\n";
        self.asks.write_all(request).expect("ask");
        let (mut status, mut length, mut retry) = (String::new(), 0, false);
        self.answers.read_line(&mut status).expect("an answer");
        loop {
            let mut line = String::new();
            self.answers.read_line(&mut line).expect("a header");
            let line = line.to_lowercase();
            if line.trim().is_empty() {
                break;
            }
            retry |= line.starts_with("retry-after: ");
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.answers.read_exact(&mut body).expect("a body");
        Answer {
            status,
            retry,
            body,
        }
    }
}

#[test]
fn more_than_the_daemon_takes_at_a_time_is_told_and_waited_for() {
    let street = street("too_many");
    let host = &street.host;
    // A flood, until the daemon has had enough: on several connections, since one that
    // waits for each answer may be slower than the limit.
    let found = AtomicBool::new(false);
    let flood = || -> Option<Answer> {
        let mut flood = Flood::begin(&host.socket());
        let end = Instant::now() + Duration::from_secs(60);
        while !found.load(Ordering::Relaxed) && Instant::now() < end {
            let answer = flood.ask();
            if answer.status.contains(" 429 ") {
                found.store(true, Ordering::Relaxed);
                return Some(answer);
            }
        }
        None
    };
    let refused = thread::scope(|scope| {
        let floods: Vec<_> = (0..16).map(|_| scope.spawn(flood)).collect();
        let ended = floods.into_iter().map(|flood| flood.join());
        ended.filter_map(|answer| answer.expect("no panic")).next()
    });
    let refused = refused.expect("there is a limit");
    assert!(refused.retry, "it says when to come again");
    let body: Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(body["error"]["code"], "too_many_requests");
    // The command line waits for its turn.
    host.netbpf(&["network", "create", "patient"]).ok();
}

#[test]
fn two_hundred_at_once_are_let_in() {
    let street = street("two_hundred");
    let socket = &street.host.socket();
    let body = br#"{"name":"n","netns":{"netns":"nowhere"}}"#;
    let statuses: Vec<u16> = thread::scope(|scope| {
        let ask = || scope.spawn(|| call(socket, "POST", "/v1/endpoints", body).status);
        let asked: Vec<_> = (0..200).map(|_| ask()).collect();
        let answers = asked.into_iter().map(|asked| asked.join());
        answers.map(|status| status.expect("no panic")).collect()
    });
    assert!(statuses.iter().all(|status| *status == 404), "{statuses:?}");
}

#[test]
fn a_socket_without_a_daemon_or_without_permission() {
    let street = street("bad_sockets");
    let host = &street.host;
    let nobody = |line: &[&str]| {
        let mut argv = vec![
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
        ];
        let (binary, socket) = (netbpf_tests::lab::binary(), host.socket());
        let (binary, socket) = (binary.display().to_string(), socket.display().to_string());
        argv.extend([binary.as_str(), "--socket", &socket]);
        argv.extend(line);
        netbpf_tests::lab::Cmd::new(&argv).output()
    };
    if !netbpf_tests::lab::has_tools("bad_sockets", &["setpriv"]) {
        return;
    }
    let mut path = host.socket();
    // Whoever may not look into the directories on the way is refused there already.
    while path.pop() && path.starts_with(street.lab.dir()) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("open a directory");
    }
    let output = nobody(&["-j", "ps"]);
    assert_eq!(output.status.code(), Some(3), "{output}");
    let error: Value = serde_json::from_str(output.stderr.trim()).expect("one line");
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("no permission") && message.contains("group netbpf"),
        "{message}"
    );
    assert!(
        message.contains(&host.socket().display().to_string()),
        "{message}"
    );

    host.stop();
    let output = host.netbpf(&["ps"]).exits(3);
    assert!(output.stderr.contains("netbpf daemon"), "{output}");
    // What a killed daemon leaves.
    host.restart();
    host.kill();
    within(Duration::from_secs(5), "its socket is stale", || {
        host.socket().exists()
    });
    let output = host.netbpf(&["ps"]).exits(3);
    assert!(
        output.stderr.contains(&host.socket().display().to_string()),
        "{output}"
    );
}
