//! The third command of the README with real engines: a container that an engine has
//! started without a network is attached by its process.
//!
//! ```text
//!   host (netbpf, an engine)  up0 ──── eth0  client
//!     web  a container of the engine, :80 published as :8080
//! ```

use std::time::Duration;

use netbpf::model::EndpointInfo;
use netbpf_tests::{
    clients::{Containerd, Docker, Podman, image},
    lab::{
        Cmd, Family, Host, Street,
        names::{CLIENT, HOST},
        street, url, within,
    },
};

/// The lines of the README that start a container and attach it.
fn readme() -> [String; 3] {
    let text = include_str!("../../README.md");
    let from = text
        .find("docker run -d --network none --name web")
        .expect("the README has the third command");
    let mut lines = text[from..].lines().map(str::to_owned);
    [(); 3].map(|()| lines.next().expect("three lines"))
}

/// Fetched from outside and on the host, in both families, under the client's own
/// address.
#[track_caller]
fn is_reached(street: &Street) {
    for family in Family::BOTH {
        let seen = image::ask(&street.client, family.ip(HOST), 8080);
        assert_eq!(seen, family.ip(CLIENT));
        assert_eq!(
            street.host.curl(&url(family.ip(HOST), 8080, "")),
            "netbpf\n"
        );
    }
}

fn endpoint(host: &Host) -> EndpointInfo {
    let mut all = host.endpoints();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Starts by the first line, attaches by the second and fetches by the third; then
/// again by the same line after a restart; at the end the container is removed.
#[track_caller]
fn readme_holds(street: &Street, engine: &str, shell: impl Fn(&str) -> Cmd) {
    let [run, attach, fetch] = readme().map(|line| line.replace("docker ", &format!("{engine} ")));
    shell(&run).ok();
    lives_through_a_restart(
        street,
        &attach,
        &fetch,
        |line| shell(line),
        &format!("{engine} restart -t 0 web"),
        &format!("{engine} rm -f web"),
    );
}

#[track_caller]
fn lives_through_a_restart(
    street: &Street,
    attach: &str,
    fetch: &str,
    shell: impl Fn(&str) -> Cmd,
    restart: &str,
    remove: &str,
) {
    shell(attach).ok();
    is_reached(street);
    let first = endpoint(&street.host);
    assert_eq!(first.name, "web");
    assert_eq!(shell(fetch).ok(), "netbpf\n", "{fetch}");

    shell(restart).ok();
    shell(attach).ok();
    is_reached(street);
    let second = endpoint(&street.host);
    assert_ne!(second.host_ifindex, first.host_ifindex, "attached anew");

    shell(remove).ok();
    within(Duration::from_secs(5), "its end is noticed", || {
        street.host.endpoints().is_empty()
    });
    let ports: Vec<serde_json::Value> = street.host.json(&["port"]);
    assert!(ports.is_empty(), "{ports:?}");
}

#[test]
fn readme_with_docker() {
    let test = "readme_with_docker";
    let street = street(test);
    let Some(docker) = Docker::start(test, &street.lab, &street.host) else {
        return;
    };
    readme_holds(&street, "docker", |line| docker.shell(line));
}

#[test]
fn readme_with_podman() {
    let test = "readme_with_podman";
    let street = street(test);
    let Some(podman) = Podman::start(test, &street.lab, &street.host) else {
        return;
    };
    readme_holds(&street, "podman", |line| podman.shell(line));
}

#[test]
fn readme_with_containerd() {
    let test = "readme_with_containerd";
    let street = street(test);
    let Some(containerd) = Containerd::start(test, &street.lab, &street.host) else {
        return;
    };
    containerd.run("web");
    let [_, attach, fetch] = readme();
    let pid = "ctr task ls | awk '$1 == \"web\" { print $2 }'";
    let attach = attach.replace("docker inspect -f '{{.State.Pid}}' web", pid);
    assert!(attach.contains("ctr task"), "{attach}");
    // A task that has ended is started anew by its container.
    let end = "ctr task kill -s KILL web; \
               until ctr task ls | grep -q STOPPED; do :; done; ctr task rm web";
    lives_through_a_restart(
        &street,
        &attach,
        &fetch,
        |line| containerd.shell(line),
        &format!("{end}; ctr task start --detach web"),
        &format!("{end}; ctr container rm web"),
    );
}

/// Engines that do not use IPv6 switch it off in the container's namespace; attach
/// switches it on for its own interface and leaves the others as they are.
#[test]
fn where_the_engine_has_disabled_ipv6() {
    let test = "where_the_engine_has_disabled_ipv6";
    let street = street(test);
    let Some(podman) = Podman::start(test, &street.lab, &street.host) else {
        return;
    };
    let [run, attach, _] = readme().map(|line| line.replace("docker ", "podman "));
    let disabled = "--sysctl net.ipv6.conf.all.disable_ipv6=1 \
                    --sysctl net.ipv6.conf.default.disable_ipv6=1 --name";
    podman.shell(&run.replace("--name", disabled)).ok();
    let setting = |device: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
        podman.shell(&format!("podman exec web cat {path}")).ok()
    };
    assert_eq!(
        (setting("all"), setting("lo")),
        ("1\n".into(), "1\n".into())
    );
    podman.shell(&attach).ok();
    assert!(endpoint(&street.host).ipv6.is_some());
    is_reached(&street);
    let after = [
        setting("all"),
        setting("default"),
        setting("lo"),
        setting("eth0"),
    ];
    assert_eq!(after, ["1\n", "1\n", "1\n", "0\n"]);
}
