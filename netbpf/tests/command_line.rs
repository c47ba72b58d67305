//! The program itself: exit codes, streams and the environment.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
};

fn netbpf(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netbpf"));
    command
        .args(arguments)
        .env_remove("NETBPF_SOCKET")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[test]
fn help_and_version_are_printed() {
    for line in [&[][..], &["help"], &["--help"], &["-q"]] {
        let (status, stdout, stderr) = run(&mut netbpf(line));
        assert_eq!((status, stderr.as_str()), (0, ""), "{line:?}");
        assert!(stdout.contains("Examples:"), "{stdout}");
        assert!(!stdout.contains('\u{1b}'), "no colour in a pipe");
    }
    let (status, stdout, _) = run(&mut netbpf(&["help", "attach"]));
    assert!(status == 0 && stdout.contains("--netns"));
    let (status, stdout, _) = run(&mut netbpf(&["--version"]));
    assert_eq!(
        (status, stdout),
        (0, format!("netbpf {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn wrong_usage_is_2() {
    let (status, stdout, stderr) = run(&mut netbpf(&["attach", "--name", "a"]));
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(
        stderr.starts_with("netbpf: ") && stderr.lines().count() == 1,
        "{stderr}"
    );
    let (status, _, stderr) = run(&mut netbpf(&["frob", "-j"]));
    assert_eq!((status, stderr.lines().count()), (2, 1));
    assert!(
        stderr.starts_with(r#"{"error":{"code":"invalid_argument","message":""#),
        "{stderr}"
    );
    let (status, _, stderr) = run(&mut netbpf(&["network"]));
    assert!(status == 2 && stderr.contains("Commands:"), "{stderr}");
}

#[test]
fn values_of_the_wrong_kind_are_2_and_the_daemon_is_not_asked() {
    let create = ["network", "create", "n"];
    let attach = ["attach", "--name", "a", "--pid", "1"];
    let rows: [(&[&str], &[&str]); 10] = [
        (&create, &["--label", "team"]),
        (&create, &["--mtu", "lots"]),
        (&create, &["--mtu", "70000"]),
        (&create, &["--subnet", "10.0.0.0/33"]),
        (&create, &["--gateway", "10.0.0"]),
        (&create, &["--ip-range", "x"]),
        (&attach, &["--ip", "10.0.0.256"]),
        (&attach, &["--label", "=b"]),
        (&["attach", "--name", "a"], &["--pid", "-1"]),
        (&["status"], &["--wait", "soon"]),
    ];
    for (command, more) in rows {
        let line: Vec<&str> = command.iter().chain(more).copied().collect();
        let mut command = netbpf(&line);
        command.args(["-j", "--socket", "/nonexistent/s.sock"]);
        let (status, stdout, stderr) = run(&mut command);
        assert_eq!((status, stdout.as_str()), (2, ""), "{line:?}: {stderr}");
        let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
        assert_eq!(error["error"]["code"], "invalid_argument");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(more[1]), "{line:?}: {message}");
    }
}

#[test]
fn several_without_a_daemon_are_told_once() {
    let mut command = netbpf(&["network", "rm", "a", "b", "--socket", "/nonexistent/s.sock"]);
    let (status, _, stderr) = run(&mut command);
    assert_eq!((status, stderr.lines().count()), (3, 1), "{stderr}");
}

#[test]
fn seconds_need_no_unit() {
    let mut command = netbpf(&["status", "--wait", "0", "--socket", "/nonexistent/s.sock"]);
    let (status, _, stderr) = run(&mut command);
    assert!(
        status == 3 && stderr.contains("/nonexistent/s.sock"),
        "{stderr}"
    );
}

#[test]
fn files_are_generated_below_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("made/for/it");
    let (status, stdout, stderr) = run(&mut netbpf(&["-q", "generate", target.to_str().unwrap()]));
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(
        stdout
            .lines()
            .all(|path| std::path::Path::new(path).is_file())
    );
    for file in [
        "man/netbpf.1",
        "man/netbpf-network-create.1",
        "completions/_netbpf",
    ] {
        assert!(target.join(file).is_file(), "{file}");
    }
    let (status, script, _) = run(&mut netbpf(&["completions", "bash"]));
    let written = std::fs::read_to_string(target.join("completions/netbpf.bash"));
    assert_eq!((status, script), (0, written.unwrap()));
}

#[test]
fn later_features_are_1() {
    let (status, _, stderr) = run(&mut netbpf(&["-j", "run", "--", "true"]));
    assert_eq!(status, 1);
    assert!(stderr.contains(r#""code":"not_implemented""#), "{stderr}");
}

#[test]
fn no_daemon_is_3_and_names_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("from-environment.sock");
    let (status, stdout, stderr) = run(netbpf(&["ps"]).env("NETBPF_SOCKET", &path));
    assert_eq!((status, stdout.as_str()), (3, ""));
    assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
    let mut command = netbpf(&["ps", "--socket", "/nonexistent/flag.sock"]);
    let (status, _, stderr) = run(command.env("NETBPF_SOCKET", &path));
    assert!(
        status == 3 && stderr.contains("/nonexistent/flag.sock"),
        "{stderr}"
    );
    let began = std::time::Instant::now();
    let mut command = netbpf(&["status", "--wait", "200ms"]);
    let (status, ..) = run(command.env("NETBPF_SOCKET", &path));
    assert_eq!(status, 3);
    assert!(began.elapsed().as_millis() >= 100);
}

#[test]
fn silent_daemon_is_waited_for_no_longer_than_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut command = netbpf(&["status", "--wait", "200ms"]);
    let (status, ..) = run(command.env("NETBPF_SOCKET", &path));
    assert_eq!(status, 3);
}

#[test]
fn closed_pipe_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = netbpf(&["ps"]);
    command.env("NETBPF_SOCKET", &path).stdout(writer);
    let (status, _, stderr) = run(&mut command);
    assert_eq!((status, stderr.as_str()), (0, ""));
    daemon.join().unwrap();
}

#[test]
fn full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else {
        _ = writeln!(
            std::io::stderr(),
            "skipped: full_disk_is_an_error: no /dev/full"
        );
        return;
    };
    let mut command = netbpf(&["help"]);
    command.stdout(full);
    let (_, _, stderr) = run(&mut command);
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn daemon_names_what_is_wrong_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    std::fs::write(&path, "node = 'a'\nuplinks = ['eth0']\n").unwrap();
    let file = path.to_str().unwrap();
    let (status, _, stderr) = run(&mut netbpf(&["daemon", "--config", file]));
    assert_eq!((status, stderr.lines().count()), (1, 1));
    let expected = format!("{file}:2: unknown key \"uplinks\": is \"uplink\" meant?");
    assert!(stderr.contains(&expected), "{stderr}");
    let (status, _, stderr) =
        run(netbpf(&["-j", "daemon"]).env("NETBPF_CONFIG", dir.path().join("none")));
    assert!(
        status == 1 && stderr.contains("invalid_argument"),
        "{stderr}"
    );
    let (status, _, stderr) = run(netbpf(&["daemon", "--config", file]).env("NETBPF_POOL", "x"));
    assert!(status == 1 && stderr.contains("NETBPF_POOL"), "{stderr}");
}

#[test]
fn second_daemon_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut command = netbpf(&["-j", "-q", "daemon", "--socket", path.to_str().unwrap()]);
    let (status, _, stderr) = run(command.env("NETBPF_STATE_DIR", dir.path()));
    assert_eq!((status, stderr.lines().count()), (1, 1), "{stderr}");
    assert!(stderr.contains(r#""code":"conflict""#), "{stderr}");
}
