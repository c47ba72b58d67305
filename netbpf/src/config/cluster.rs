//! What is set of the cluster: where etcd is, and how other nodes reach this one.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use hyper::Uri;

use super::Origin;
use crate::{
    cli::args::duration,
    cluster,
    error::{Error, Result},
};

/// The part of the daemon's flags that is about other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ClusterOptions {
    /// Members of the etcd that the nodes share, such as http://10.0.0.1:2379; may be
    /// repeated [default: none, this node is on its own]
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub etcd: Option<Vec<EtcdUrl>>,
    /// Where in etcd the nodes meet [default: /netbpf/v1]
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub etcd_prefix: Option<String>,
    /// Certificates of who may have signed those of etcd's members [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub etcd_cacert: Option<PathBuf>,
    /// Certificate that this node shows to etcd; needs --etcd-key
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// Private key of --etcd-cert
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// User of etcd; needs --etcd-password-file
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// File whose first line is the password of --etcd-user
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// A node that etcd has not heard of for that long is away [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = lease_ttl)]
    pub lease_ttl: Option<Duration>,
    /// Address by which other nodes reach this one [default: the default route's,
    /// followed when it changes]
    #[arg(long, value_name = "IP", value_parser = node_ip)]
    pub node_ip: Option<IpAddr>,
    /// UDP port of VXLAN, the same on all nodes [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = vxlan_port)]
    pub vxlan_port: Option<u16>,
}

/// The URL of a member of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUrl(String);

impl FromStr for EtcdUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("etcd {text:?}: {why}");
        let url: Uri = text.parse().map_err(|_| bad("this is no URL"))?;
        let authority = match (url.scheme_str(), url.authority()) {
            (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => authority,
            _ => return Err(bad("a URL is http://HOST:PORT or https://HOST:PORT")),
        };
        if authority.as_str().contains('@') {
            return Err(bad("user and password have options of their own"));
        }
        match authority.port_u16() {
            None | Some(0) => {
                return Err(bad("a port is missing, such as http://10.0.0.1:2379"));
            }
            Some(_) => {}
        }
        match url.path_and_query().map(|path| path.as_str()) {
            None | Some("" | "/") => Ok(EtcdUrl(text.trim_end_matches('/').into())),
            Some(_) => Err(bad("etcd has no path; --etcd-prefix says where keys are")),
        }
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let bad = |why: &str| Err(format!("etcd-prefix {text:?}: {why}"));
    let prefix = text.trim_end_matches('/');
    if !text.starts_with('/') {
        bad("it begins with /")
    } else if prefix.is_empty() {
        bad("all of etcd is too much")
    } else {
        Ok(prefix.into())
    }
}

fn lease_ttl(text: &str) -> Result<Duration, String> {
    let bad = |why: &str| format!("lease-ttl {text:?}: {why}");
    let time = duration(text).map_err(|e| bad(&e))?;
    // etcd counts in seconds, and grants nothing below its own time of an election.
    match time.as_secs() {
        2..=86_400 if time.subsec_nanos() == 0 => Ok(time),
        _ => Err(bad("it is whole seconds, from 2s to 1day")),
    }
}

fn node_ip(text: &str) -> Result<IpAddr, String> {
    let bad = |why: &str| format!("node-ip {text:?}: {why}");
    let address: IpAddr = text.parse().map_err(|_| bad("this is no IP address"))?;
    let useless = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    match useless {
        true => Err(bad("no other node reaches this one there")),
        false => Ok(address),
    }
}

fn vxlan_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!(
            "vxlan-port {text:?}: a port is a number from 1 to 65535"
        )),
    }
}

impl ClusterOptions {
    /// What there is to know of etcd, with what needs one another.
    pub fn etcd(&self, origins: &BTreeMap<String, Origin>) -> Result<cluster::Options> {
        let default = cluster::Options::default();
        let urls = self.etcd.iter().flatten();
        let options = cluster::Options {
            endpoints: urls.map(|url| url.0.clone()).collect(),
            prefix: self.etcd_prefix.clone().unwrap_or(default.prefix),
            cacert: self.etcd_cacert.clone(),
            cert: self.etcd_cert.clone(),
            key: self.etcd_key.clone(),
            user: self.etcd_user.clone(),
            password_file: self.etcd_password_file.clone(),
            lease_ttl: self.lease_ttl.unwrap_or(default.lease_ttl),
        };
        match options.misfit() {
            None => Ok(options),
            Some((key, reason)) => {
                let origin = origins.get(key).unwrap_or(&Origin::Flag);
                Err(Error::invalid(origin.blame(key, &reason)))
            }
        }
    }
}
