//! Published ports.

use std::net::{TcpListener, UdpSocket};

use netbpf_tests::lab::street_with_networks;
use serde_json::json;

use crate::frame::*;

#[test]
fn ports() {
    let street = street_with_networks("bad_ports", &[]);
    let host = &street.host;
    let (web, app, late) = endpoints_of(&street);
    host.netbpf(&["network", "create", "vault", "--internal"])
        .ok();
    let vault = street.lab.space("vault");
    host.attach(&vault, "vaulted", &["--network", "vault"]);
    // Programs of the host.
    let tcp = |address: &str| host.enter(|| TcpListener::bind(address)).expect("listen");
    let udp = |address: &str| host.enter(|| UdpSocket::bind(address)).expect("bind");
    let _programs = (
        tcp("127.0.0.1:7001"),
        tcp("0.0.0.0:7002"),
        tcp("[::]:7003"),
        tcp("192.0.2.1:7004"),
    );
    let _udp = udp("0.0.0.0:7005");

    let rows: [(Refused, &[&str], &str); 37] = [
        (INVALID, &[], "0:80"),
        (INVALID, &[], "80:0"),
        (INVALID, &[], "0"),
        (INVALID, &[], "65536:80"),
        (INVALID, &[], "8080:65536"),
        (INVALID, &[], "99999999999999999999:80"),
        (INVALID, &["backwards"], "82-80:82-80"),
        (INVALID, &["backwards"], "8082-8080:80"),
        (INVALID, &["differ in number"], "8000-8001:80-82"),
        (INVALID, &["differ in number"], "8000:80-82"),
        (INVALID, &[], "60000-70000:60000-70000"),
        (INVALID, &["more than there are"], "1-65535"),
        (INVALID, &[], "-80:80"),
        (INVALID, &[], "x:80"),
        (INVALID, &[], ":80"),
        (INVALID, &[], "8080:"),
        (INVALID, &[], ""),
        (INVALID, &["icmp"], "80:80/icmp"),
        (INVALID, &["1.2.3"], "1.2.3:80:80"),
        (INVALID, &["198.51.100.77"], "198.51.100.77:80:80"),
        (INVALID, &["sctp"], "8081:80/sctp"),
        (INVALID, &["backwards"], "published=82-80,target=82-80"),
        (INVALID, &["twice"], "target=80,target=81"),
        (INVALID, &["KEY=VALUE"], "target=80,published"),
        (
            INVALID,
            &["allow", "everywhere"],
            "published=8081,target=80,allow=everywhere",
        ),
        (
            INVALID,
            &["allow", "10.0.0.1/8"],
            "published=8081,target=80,allow=10.0.0.1/8",
        ),
        (
            INVALID,
            &["weight", "0"],
            "published=8081,target=80,weight=0",
        ),
        (
            INVALID,
            &["weight", "-3"],
            "published=8081,target=80,weight=-3",
        ),
        (
            INVALID,
            &["affinity", "moon"],
            "published=8081,target=80,affinity=moon",
        ),
        (
            INVALID,
            &["protocol"],
            "published=8081,target=80,protocol=icmp",
        ),
        (INVALID, &["target"], "published=80"),
        (INVALID, &["colour"], "published=80,target=80,colour=red"),
        (
            PORT_IN_USE,
            &["8080/tcp", "\"web\"", "\"front\""],
            "8080:81",
        ),
        (
            PORT_IN_USE,
            &["8080/tcp", "\"web\"", "\"front\""],
            "8070-8090:8070-8090",
        ),
        (PORT_IN_USE, &["7001/tcp", "127.0.0.1"], "7001:80"),
        (PORT_IN_USE, &["7002/tcp"], "7002:80"),
        (PORT_IN_USE, &["7005/udp"], "7005:80/udp"),
    ];
    let mut cases = Vec::new();
    for (refused, says, spec) in rows {
        // An error of a spec names it as it was typed.
        let quoted = format!("{spec:?}");
        let mut says = says.to_vec();
        if refused.code == "invalid_argument" {
            says.push(&quoted);
        }
        cases.push(publish(refused, &says, "app", spec));
        let flags = ["--network", "back", &format!("--publish={spec}")];
        let spec = json!({"network": "back", "publish": [spec]});
        cases.push(attach(refused, &says, late.name(), &flags, spec));
    }
    cases.extend([
        publish(PORT_IN_USE, &["7003/tcp"], "app", "[::1]:7003:80"),
        publish(PORT_IN_USE, &["7004/tcp", "192.0.2.1"], "app", "7004:80"),
        publish(
            PORT_IN_USE,
            &["7004/tcp", "192.0.2.1"],
            "app",
            "192.0.2.1:7004:80",
        ),
        // What is published already, whoever has it.
        publish(PORT_IN_USE, &["8080/tcp", "\"web\""], "web", "8080:80"),
        publish(
            PORT_IN_USE,
            &["8080/tcp", "\"web\""],
            "app",
            "192.0.2.1:8080:80",
        ),
        publish(
            INVALID,
            &["\"8081:80\"", "\"vault\"", "internal"],
            "vaulted",
            "8081:80",
        ),
        publish(NOT_FOUND, &["endpoint \"nobody\""], "nobody", "8081:80"),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["publish", "web", "--network", "nowhere", "-p", "1:1"],
            (
                "POST",
                "/v1/endpoints/web/ports",
                json!({"network": "nowhere", "publish": ["1:1"]}),
            ),
        ),
        case(
            NOT_FOUND,
            &["\"8081:80\"", "\"web\""],
            &["unpublish", "web", "-p", "8081:80"],
            (
                "DELETE",
                "/v1/endpoints/web/ports",
                json!({"publish": ["8081:80"]}),
            ),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"nobody\""],
            &["unpublish", "nobody", "-p", "1:1"],
            (
                "DELETE",
                "/v1/endpoints/nobody/ports",
                json!({"publish": ["1:1"]}),
            ),
        ),
        case(
            NOT_OF_THE_KIND,
            &[],
            &["unpublish", "web", "-p", "8080:80", "--drain", "soon"],
            (
                "DELETE",
                "/v1/endpoints/web/ports",
                json!({"publish": ["8080:80"], "drain": "soon"}),
            ),
        ),
        case(
            INVALID,
            &["drain"],
            &["unpublish", "web", "-p", "8080:80", "--drain", "1000d"],
            (
                "DELETE",
                "/v1/endpoints/web/ports",
                json!({"publish": ["8080:80"], "drain": 86_400_000}),
            ),
        ),
        case(
            NOT_FOUND,
            &["published=8081", "\"web\""],
            &["update", "web", "-p", "published=8081,target=80,weight=3"],
            (
                "PATCH",
                "/v1/endpoints/web",
                json!({"publish": ["published=8081,target=80,weight=3"]}),
            ),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"nobody\""],
            &["update", "nobody", "-p", "published=1,target=1,weight=3"],
            (
                "PATCH",
                "/v1/endpoints/nobody",
                json!({"publish": ["published=1,target=1,weight=3"]}),
            ),
        ),
        // The first of several would have been possible.
        case(
            PORT_IN_USE,
            &["8080/tcp"],
            &["publish", "app", "-p", "8099:80", "-p", "8080:80"],
            (
                "POST",
                "/v1/endpoints/app/ports",
                json!({"publish": ["8099:80", "8080:80"]}),
            ),
        ),
        case(
            PORT_IN_USE,
            &["8099/tcp", "\"app\""],
            &["publish", "app", "-p", "8099:80", "-p", "8099:81"],
            (
                "POST",
                "/v1/endpoints/app/ports",
                json!({"publish": ["8099:80", "8099:81"]}),
            ),
        ),
        case(
            NOT_FOUND,
            &["\"8081:80\""],
            &["unpublish", "web", "-p", "8080:80", "-p", "8081:80"],
            (
                "DELETE",
                "/v1/endpoints/web/ports",
                json!({"publish": ["8080:80", "8081:80"]}),
            ),
        ),
        attach(
            INVALID,
            &["\"0/tcp\""],
            late.name(),
            &["-P", "--expose", "0/tcp"],
            json!({"publish_all": true, "expose": ["0/tcp"]}),
        ),
        attach(
            INVALID,
            &["icmp"],
            late.name(),
            &["-P", "--expose", "80/icmp"],
            json!({"publish_all": true, "expose": ["80/icmp"]}),
        ),
    ]);
    all_are_refused(host, &[&late, &web, &app], &cases);
}
