//! Several hosts with a network over all of them.
//!
//! ```text
//!   n1  web ─┐
//!   n2  app ─┼─ lan, etcd
//!   …       ─┘
//! ```

use netbpf_tests::lab::{Container, Family, Host, Town, url};

use super::{WebServer, curl, print_output, say, show};

pub fn run(count: usize) {
    say(&format!(
        "{count} hosts as network namespaces on one wire, and an etcd; your own interfaces and settings are not touched."
    ));
    let Some(town) = Town::without_daemons("the demo", count, Family::V4) else {
        panic!("it needs an etcd: apt-get install etcd-server, or `cargo xtask test` brings one");
    };
    for (number, host) in town.hosts.iter().enumerate() {
        let [v4, v6] = Town::addresses(number);
        println!("  {}  {v4}  {v6}", host.role());
        show(&format!(
            "netbpf daemon --etcd {} --node-ip {v4}    # in {}",
            town.etcd.url(),
            host.role()
        ));
        town.start(number, &[]);
    }
    town.wait_for_nodes();
    print_output(&on(&town.hosts[0], &["node", "ls"]));

    say("A network, made on one of them and there on all; a container on each.");
    let subnets = ["--subnet", "10.30.0.0/16", "--subnet", "fd30::/64"];
    show(&format!(
        "netbpf network create wide --driver overlay {}    # in n1",
        subnets.join(" ")
    ));
    town.overlay("wide", &subnets);
    let containers: Vec<Container> = (0..count).map(|number| attach(&town, number)).collect();
    let last = &town.hosts[count - 1];
    print_output(&on(last, &["network", "inspect", "wide"]));

    say("A web server on the first, fetched from the last; it sees the container's own address.");
    let (web, app) = (&containers[0], &containers[count - 1]);
    let server = WebServer::start(&town.lab, web, 80);
    for family in Family::BOTH {
        let body = curl(app, &url(web.addr(family), 80, "hello.txt"));
        assert_eq!(body, format!("hello from {}\n", web.role()), "not our page");
    }
    let addresses = Family::BOTH.map(|family| app.addr(family).to_string());
    server.print_log(&addresses.each_ref().map(String::as_str));

    say("etcd and the daemons end; what runs goes on.");
    let address = web.addr(Family::V4);
    let pings = app.ping_stream(address, 200);
    show("kill -9 etcd");
    town.etcd.kill();
    show("kill -9 netbpf    # in n1");
    town.hosts[0].kill();
    let output = pings.wait();
    let lines = output.stdout.lines();
    print_output(
        lines
            .filter(|l| l.contains("transmitted"))
            .collect::<Vec<_>>()
            .join("\n")
            .as_str(),
    );
    assert!(output.stdout.contains("200 received"), "pings were lost");
    town.etcd.restart();
    town.hosts[0].restart();
    town.wait_for_nodes();

    say("And away again.");
    for host in &town.hosts {
        print_output(&on(host, &["teardown", "--purge"]));
        host.wait_ended();
    }
    drop(town);
    println!("\nDone; the namespaces are gone.");
}

fn attach(town: &Town, number: usize) -> Container {
    let name = format!("c{}", number + 1);
    let host = &town.hosts[number];
    show(&format!(
        "netbpf attach --name {name} --network wide --netns {name}    # in {}",
        host.role()
    ));
    let container = town.container(number, "wide", &name, &[]);
    let [v4, v6] = Family::BOTH.map(|family| container.addr(family));
    println!("  {name} has {v4} and {v6}");
    container
}

fn on(host: &Host, arguments: &[&str]) -> String {
    show(&format!(
        "netbpf {}    # in {}",
        arguments.join(" "),
        host.role()
    ));
    host.netbpf(arguments).ok()
}
