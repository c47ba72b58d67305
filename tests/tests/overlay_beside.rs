//! Others' VXLAN at the same port of the same hosts: neither takes harm. The town is drawn
//! at [`netbpf_tests::lab::Town`].

use std::{net::IpAddr, time::Duration};

use netbpf_tests::{
    clients::Docker,
    lab::{Family, Http, Namespace, SOON, Town, names::SUBNETS, within},
};

#[test]
fn others_vxlan_on_the_same_port_goes_on() {
    let Some(town) = Town::new("overlay_beside", 2, Family::V4) else {
        return;
    };
    // As Docker's overlay has it: made on the host, moved into a namespace of its own.
    let sandbox = town.lab.space("sandbox");
    let [own, peer] = [Town::addresses(0)[0].clone(), "192.0.2.2".into()];
    let device = |space: &Namespace, local: &str, remote: &str| {
        space.ip(&format!(
            "link add vx77 type vxlan id 77 dstport 4789 local {local} remote {remote} nolearning"
        ));
    };
    device(&town.client, &peer, &own);
    town.client.address("vx77", &["10.77.0.2/24"]);
    device(&town.hosts[0], &own, &peer);
    town.hosts[0].ip(&format!("link set vx77 netns {}", sandbox.name()));
    sandbox.address("vx77", &["10.77.0.1/24"]);
    sandbox.ping("10.77.0.2".parse().unwrap());

    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    web.ping(app.addr(Family::V4));
    sandbox.ping("10.77.0.2".parse().unwrap());
    town.client.ping("10.77.0.1".parse().unwrap());
    town.hosts[0].netbpf(&["detach", "web"]).ok();
    town.hosts[1].netbpf(&["detach", "app"]).ok();
    town.hosts[0].netbpf(&["network", "rm", "wide"]).ok();
    sandbox.ping("10.77.0.2".parse().unwrap());
    // One that comes while ours is there is noticed, too.
    town.overlay("wide", &SUBNETS);
    sandbox.ip("link del vx77");
    device(&town.hosts[0], &own, &peer);
    town.hosts[0].address("vx77", &["10.77.0.1/24"]);
    within(Duration::from_secs(10), "the other's VXLAN passes", || {
        let to = "10.77.0.1".parse().unwrap();
        town.client.ping_with(to, &[]).status.success()
    });
}

/// A swarm of two real dockerds, each beside a daemon of ours, with an overlay network of
/// Docker's from before ours and one from after.
#[test]
fn docker_swarm_goes_on() {
    let test = "overlay_swarm";
    let Some(town) = Town::new(test, 2, Family::V4) else {
        return;
    };
    let start = |host| Docker::start_for_swarm(test, &town.lab, host);
    let (Some(first), Some(second)) = (start(&town.hosts[0]), start(&town.hosts[1])) else {
        return;
    };
    let [at_first, at_second] = [0, 1].map(|number| Town::addresses(number)[0].clone());
    first
        .shell(&format!("docker swarm init --advertise-addr {at_first}"))
        .ok();
    let token = first.shell("docker swarm join-token -q worker").ok();
    let join = format!("docker swarm join --token {} {at_first}:2377", token.trim());
    second
        .shell(&format!("{join} --advertise-addr {at_second}"))
        .ok();

    within(SOON, "both are ready for containers", || {
        let states = first.shell("docker node ls --format '{{.Status}}'").ok();
        states.matches("Ready").count() == 2
    });

    let theirs = |name: &str| -> [Theirs<'_>; 2] {
        let create = "docker network create --driver overlay --attachable";
        first.shell(&format!("{create} {name}")).ok();
        [
            Theirs::run(&first, name, &format!("{name}1")),
            Theirs::run(&second, name, &format!("{name}2")),
        ]
    };
    let before = theirs("before");
    meet(&before);

    let drops = town.hosts[0].drops();
    town.overlay("wide", &SUBNETS);
    let ours = [("web", 0), ("app", 1)].map(|(name, number)| {
        let container = town.container(number, "wide", name, &[]);
        let server = Http::start(&container, 80);
        (container, server)
    });
    let ours_meet = || {
        for family in Family::BOTH {
            ours[0].0.fetch_big(ours[1].0.addr(family), 80);
            ours[1].0.fetch_big(ours[0].0.addr(family), 80);
        }
    };
    ours_meet();
    meet(&before);
    let after = theirs("after");
    meet(&after);
    ours_meet();
    drops.none();

    // Neither needs the other: their networks go, and ours goes on, and the other way.
    for one in before {
        one.remove();
    }
    ours_meet();
    for (host, name) in town.hosts.iter().zip(["web", "app"]) {
        host.netbpf(&["detach", name]).ok();
    }
    town.hosts[0].netbpf(&["network", "rm", "wide"]).ok();
    meet(&after);
    for host in &town.hosts {
        host.netbpf(&["teardown"]).ok();
    }
    meet(&after);
}

/// A container of Docker's on a network of Docker's.
struct Theirs<'a> {
    docker: &'a Docker,
    name: String,
    address: IpAddr,
}

impl<'a> Theirs<'a> {
    fn run(docker: &'a Docker, network: &str, name: &str) -> Theirs<'a> {
        docker
            .shell(&format!(
                "docker run -d --name {name} --network {network} nginx"
            ))
            .ok();
        let networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = docker
            .shell(&format!("docker inspect -f '{networks}' {name}"))
            .ok();
        Theirs {
            docker,
            name: name.into(),
            address: address.trim().parse().expect("an address"),
        }
    }

    fn remove(self) {
        self.docker
            .shell(&format!("docker rm -f {}", self.name))
            .ok();
    }
}

/// Both ways, by address.
#[track_caller]
fn meet([one, other]: &[Theirs<'_>; 2]) {
    for (from, to) in [(one, other), (other, one)] {
        let fetch = format!(
            "timeout 3 docker exec {0} busybox wget -q -O /tmp/got http://{1}/cgi-bin/who && \
             docker exec {0} cat /tmp/got",
            from.name, to.address
        );
        // Docker's nodes tell each other of an endpoint by gossip.
        within(SOON, &format!("{} reaches {}", from.name, to.name), || {
            let fetched = from.docker.shell(&fetch).output();
            fetched.status.success() && fetched.stdout.contains(&from.address.to_string())
        });
    }
}
