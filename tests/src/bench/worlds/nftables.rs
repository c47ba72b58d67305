//! Bridge and nftables: maps where iptables has a rule for each network and port, much as
//! the nftables backend that Docker 29 has writes them for one of each.

use super::{Path, Town, Way, World, bridge, bridged_packets_pass_iptables};
use crate::lab::{
    Lab,
    names::{CLIENT_WIRE, HOST_WIRE},
};

struct Nftables(Town);

pub fn build(lab: &Lab, tag: &str) -> impl World + use<> {
    let host = lab.space(&format!("host-{tag}"));
    let client = lab.space(&format!("client-{tag}"));
    lab.wire((&host, "up0", &HOST_WIRE), (&client, "eth0", &CLIENT_WIRE));
    let [web, app] = bridge::containers(lab, tag, &host);
    host.sysctl("net.ipv4.ip_forward", "1");
    bridged_packets_pass_iptables(&host, false);
    host.run(&["nft", &rules()]).ok();
    Nftables(Town {
        host,
        client,
        web,
        web_address: bridge::WEB.parse().expect("an address"),
        app,
    })
}

impl World for Nftables {
    fn path(&self, way: Way) -> Option<Path> {
        matches!(way, Way::Published | Way::Masquerade | Way::Sibling)
            .then(|| self.0.path(way))
            .flatten()
    }
}

fn rules() -> String {
    "table ip docker-bridges {
        chain filter-forward-in__docker0 {
            ct state established,related counter accept
            iifname docker0 counter accept
            ip daddr WEB tcp dport 80 counter accept
            ip daddr WEB udp dport 80 counter accept
            counter drop
        }
        chain filter-forward-out__docker0 {
            ct state established,related counter accept
            counter accept
        }
        chain nat-postrouting-in__docker0 {
            iifname docker0 ip saddr WEB ip daddr WEB tcp dport 80 counter masquerade
        }
        chain nat-postrouting-out__docker0 {
            oifname != docker0 ip saddr SUBNET counter masquerade
        }
        chain nat-prerouting-and-output {
            iifname != docker0 tcp dport 8080 counter dnat to WEB:80
            iifname != docker0 udp dport 8080 counter dnat to WEB:80
        }
        map filter-forward-in-jumps {
            type ifname : verdict
            elements = { docker0 : jump filter-forward-in__docker0 }
        }
        map filter-forward-out-jumps {
            type ifname : verdict
            elements = { docker0 : jump filter-forward-out__docker0 }
        }
        map nat-postrouting-in-jumps {
            type ifname : verdict
            elements = { docker0 : jump nat-postrouting-in__docker0 }
        }
        map nat-postrouting-out-jumps {
            type ifname : verdict
            elements = { docker0 : jump nat-postrouting-out__docker0 }
        }
        chain filter-FORWARD {
            type filter hook forward priority filter; policy accept;
            oifname vmap @filter-forward-in-jumps
            iifname vmap @filter-forward-out-jumps
        }
        chain raw-PREROUTING {
            type filter hook prerouting priority raw; policy accept;
            ip daddr WEB iifname != docker0 counter drop
        }
        chain nat-OUTPUT {
            type nat hook output priority -100; policy accept;
            ip daddr != 127.0.0.0/8 fib daddr type local counter jump nat-prerouting-and-output
        }
        chain nat-PREROUTING {
            type nat hook prerouting priority dstnat; policy accept;
            fib daddr type local counter jump nat-prerouting-and-output
        }
        chain nat-POSTROUTING {
            type nat hook postrouting priority srcnat; policy accept;
            oifname vmap @nat-postrouting-in-jumps
            iifname vmap @nat-postrouting-out-jumps
        }
    }"
    .replace("SUBNET", bridge::SUBNET)
    .replace("WEB", bridge::WEB)
}
