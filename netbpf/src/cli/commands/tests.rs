//! Commands against a fake daemon on a real socket.

use std::{cell::RefCell, io, path::PathBuf, rc::Rc};

use clap::Parser;
use serde_json::Value;

use crate::{
    api::{Api, Socket, fake::Fake, serve},
    cli::{
        args::Cli,
        failure::Failure,
        output::{Mode, Output},
    },
    model::FlowFilter,
};

struct Session {
    socket: Socket,
    fake: Fake,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

#[derive(Clone, Default)]
struct Captured(Rc<RefCell<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let mut socket = Socket::bind(&path, "").unwrap();
        let listener = socket.listener().unwrap();
        let fake = Fake::default();
        let (api, _) = Api::new(fake.clone());
        tokio::spawn(serve(listener, api, std::future::pending()));
        Session {
            socket,
            fake,
            path,
            _dir: dir,
        }
    }

    async fn run(&self, mode: Mode, line: &str) -> Result<String, Failure> {
        let mut cli = Cli::parse_from(std::iter::once("netbpf").chain(line.split(' ')));
        cli.global.socket = Some(self.path.clone());
        let captured = Captured::default();
        let output = Output::to(mode, captured.clone());
        super::run(cli.command.unwrap(), &cli.global, &output).await?;
        Ok(String::from_utf8(captured.0.take()).unwrap())
    }

    async fn human(&self, line: &str) -> String {
        self.run(Mode::Human, line).await.unwrap()
    }

    async fn json(&self, line: &str) -> Value {
        let text = self.run(Mode::Json, line).await.unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn names(&self, line: &str) -> String {
        self.run(Mode::Names, line).await.unwrap()
    }
}

#[tokio::test]
async fn a_day_with_the_command_line() {
    let session = Session::start();
    assert_eq!(session.names("network create front").await, "front\n");
    assert_eq!(session.json("network ls").await[0]["name"], "front");
    assert!(session.human("network ls").await.starts_with("NAME"));
    let human = session.human("network inspect front").await;
    assert!(human.starts_with("name    front\n"), "{human}");

    let human = session
        .human("attach --name web --network front --pid 7 -p 8080:80 --label a=b")
        .await;
    assert!(
        human.contains("port            80/tcp -> 0.0.0.0:8080\n"),
        "{human}"
    );
    assert_eq!(session.json("inspect web").await["name"], "web");
    assert_eq!(
        session
            .names("attach --name web --network back --pid 7")
            .await,
        "web\n"
    );
    assert_eq!(
        session.json("inspect web").await.as_array().unwrap().len(),
        2
    );
    assert_eq!(
        session.json("inspect web --network back").await["network"],
        "back"
    );
    assert_eq!(session.names("ps").await, "web\nweb\n");
    let human = session.human("ps").await;
    assert!(
        human.contains("nb1") && human.contains("*:8080->80/tcp"),
        "{human}"
    );

    let json = session.json("publish web -p 8443:443").await;
    assert_eq!(json["ports"].as_array().unwrap().len(), 2);
    let human = session.human("unpublish web -p 8443:443").await;
    assert!(!human.contains("8443"), "{human}");
    assert_eq!(session.json("port web").await[0]["endpoint"], "web");
    let human = session.human("port").await;
    assert!(human.contains("80/tcp -> [::]:8080"), "{human}");

    assert_eq!(session.json("drops --endpoint web").await[0]["packets"], 3);
    assert_eq!(session.json("flows").await, Value::Array(Vec::new()));
    let flush = "flows --endpoint web flush --protocol tcp";
    assert_eq!(session.json(flush).await["mappings"], 1);
    assert_eq!(
        session.human("flows flush").await,
        "3 flows and 1 mapping removed\n"
    );
    assert_eq!(session.names("flows flush").await, "");
    let asked = session.fake.flushed();
    assert_eq!(asked[0].endpoint.as_deref(), Some("web"));
    assert_eq!(asked[0].protocol.as_deref(), Some("tcp"));
    assert_eq!(asked[1], FlowFilter::default());
    assert_eq!(session.names("status --wait 1s").await, "");
    assert!(
        session
            .human("status")
            .await
            .contains("feature    tcx: no: clsact")
    );

    assert_eq!(
        session.json("detach web").await.as_array().unwrap().len(),
        2
    );
    assert_eq!(session.human("detach web").await, "");
    assert_eq!(session.json("network rm front").await["name"], "front");
    let failure = session
        .run(Mode::Human, "network rm front")
        .await
        .unwrap_err();
    assert_eq!(
        (failure.status(), failure.info().code.as_str()),
        (1, "not_found")
    );
    assert_eq!(
        session.json("network prune").await,
        Value::Array(Vec::new())
    );
}

#[tokio::test]
async fn the_doctor_prints_what_it_finds_and_fails_on_errors() {
    let session = Session::start();
    assert_eq!(session.json("doctor").await[0]["severity"], "ok");
    assert_eq!(session.names("doctor").await, "");
    session.fake.fall_ill();
    for mode in [Mode::Human, Mode::Json, Mode::Names] {
        let mut cli = Cli::parse_from(["netbpf", "doctor"]);
        cli.global.socket = Some(session.path.clone());
        let captured = Captured::default();
        let output = Output::to(mode, captured.clone());
        let done = super::run(cli.command.unwrap(), &cli.global, &output).await;
        assert_eq!(done.unwrap_err().status(), 1);
        let printed = String::from_utf8(captured.0.take()).unwrap();
        assert!(printed.contains("map ports"), "{mode:?}: {printed}");
    }
}

#[tokio::test]
async fn each_of_several_is_tried() {
    let session = Session::start();
    for name in ["a", "b", "c"] {
        session.names(&format!("network create {name}")).await;
    }
    let failure = session.run(Mode::Human, "network rm a x b y").await;
    let failure = failure.unwrap_err();
    assert_eq!(failure.status(), 1);
    let Failure::Several(all) = failure else {
        panic!("two were not there: {failure}");
    };
    assert_eq!(all.len(), 2);
    for (one, name) in all.iter().zip(["x", "y"]) {
        assert_eq!(one.info().code, "not_found");
        assert!(one.line(false).contains(&format!("{name:?}")), "{one}");
    }
    assert_eq!(session.names("network ls").await, "c\n");
    session.names("network create d").await;
    let json = session.json("network rm c d").await;
    assert_eq!(json.as_array().unwrap().len(), 2);

    for name in ["web", "db"] {
        session
            .names(&format!("attach --name {name} --pid 7"))
            .await;
    }
    let json = session.json("detach web nobody db").await;
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(session.names("ps").await, "");
}

#[tokio::test]
async fn no_daemon_is_status_3() {
    let session = Session::start();
    let path = session.path.clone();
    drop(session.socket);
    let cli = Cli::parse_from(["netbpf", "ps", "--socket", path.to_str().unwrap()]);
    let output = Output::to(Mode::Human, Captured::default());
    let failure = super::run(cli.command.unwrap(), &cli.global, &output)
        .await
        .unwrap_err();
    assert_eq!(failure.status(), 3);
    assert!(failure.line(false).contains(path.to_str().unwrap()));
}
