//! What a runtime says by the environment: the verb, the container and its arguments.

use std::{ffi::OsString, net::IpAddr};

use super::error::{CniError, Number};

/// What the plug-in is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub fn name(self) -> &'static str {
        let found = Verb::ALL.iter().find(|(_, verb)| *verb == self);
        found.map_or("", |(name, _)| name)
    }

    pub const ALL: [(&'static str, Verb); 6] = [
        ("ADD", Verb::Add),
        ("DEL", Verb::Del),
        ("CHECK", Verb::Check),
        ("GC", Verb::Gc),
        ("STATUS", Verb::Status),
        ("VERSION", Verb::Version),
    ];
}

/// An invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub verb: Verb,
    pub container_id: String,
    /// Empty where it is not said.
    pub netns: String,
    pub ifname: String,
    pub args: Args,
}

/// `CNI_ARGS`, as far as they mean something to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub ips: Vec<IpAddr>,
    pub mac: Option<String>,
    pub pod_name: Option<String>,
    pub pod_namespace: Option<String>,
    pub pod_uid: Option<String>,
}

impl Call {
    /// None where nobody has said that this is a call: somebody tries the program.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Option<Call>, CniError> {
        let get = |name: &str| match get(name) {
            None => Ok(String::new()),
            Some(value) => value
                .into_string()
                .map_err(|value| invalid(format!("{name} is not text: {value:?}"))),
        };
        let command = get("CNI_COMMAND")?;
        if command.is_empty() {
            return Ok(None);
        }
        let verb = Verb::ALL.into_iter().find(|(name, _)| *name == command);
        let Some((_, verb)) = verb else {
            return Err(invalid(format!(
                "CNI_COMMAND {command:?} is no verb of CNI"
            )));
        };
        let call = Call {
            verb,
            container_id: get("CNI_CONTAINERID")?,
            netns: get("CNI_NETNS")?,
            ifname: get("CNI_IFNAME")?,
            args: match verb {
                // What was asked for when it was attached does not matter to others.
                Verb::Add => Args::parse(&get("CNI_ARGS")?)?,
                _ => Args::default(),
            },
        };
        call.check()?;
        Ok(Some(call))
    }

    fn check(&self) -> Result<(), CniError> {
        let named = [
            ("CNI_CONTAINERID", &self.container_id),
            ("CNI_IFNAME", &self.ifname),
            ("CNI_NETNS", &self.netns),
        ];
        let needed = match self.verb {
            Verb::Add | Verb::Check => &named[..],
            // The namespace may be gone already.
            Verb::Del => &named[..2],
            Verb::Gc | Verb::Status | Verb::Version => &[],
        };
        let missing: Vec<&str> = needed
            .iter()
            .filter(|(_, value)| value.is_empty())
            .map(|(name, _)| *name)
            .collect();
        match &missing[..] {
            [] => {}
            [one] => return Err(invalid(format!("{one} is not set"))),
            several => return Err(invalid(format!("{} are not set", several.join(", ")))),
        }
        if !needed.is_empty() && !is_container_id(&self.container_id) {
            return Err(invalid(format!(
                "CNI_CONTAINERID {:?} is not a letter or digit with letters, digits, '_', '.' and '-' behind it",
                self.container_id
            )));
        }
        if !needed.is_empty() && !is_ifname(&self.ifname) {
            return Err(invalid(format!(
                "CNI_IFNAME {:?}: a name has 1 to 15 bytes and no '/', ':', '%' or space",
                self.ifname
            )));
        }
        Ok(())
    }
}

fn invalid(message: String) -> CniError {
    CniError::new(Number::InvalidEnvironment, message)
}

/// As the kernel takes them; `%` it would fill in.
fn is_ifname(name: &str) -> bool {
    let fits = |c: char| !"/:%".contains(c) && !c.is_whitespace() && !c.is_control();
    (1..=15).contains(&name.len()) && ![".", ".."].contains(&name) && name.chars().all(fits)
}

/// As the specification has it.
fn is_container_id(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

impl Args {
    /// `KEY=VALUE;KEY=VALUE`. A key that is not known is an error, unless
    /// `IgnoreUnknown` says otherwise, as in the reference plug-ins.
    fn parse(text: &str) -> Result<Args, CniError> {
        let mut args = Args::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")));
            };
            let value = value.to_owned();
            let some = || Some(value.clone()).filter(|value| !value.is_empty());
            match key {
                "IgnoreUnknown" => ignore_unknown = is_true(&value)?,
                "IP" => {
                    let texts = value.split(',').filter(|text| !text.is_empty());
                    let ips = texts.map(str::parse).collect::<Result<Vec<IpAddr>, _>>();
                    let ips = ips
                        .map_err(|_| invalid(format!("CNI_ARGS: IP={value:?} is no IP address")))?;
                    args.ips.extend(ips);
                }
                "MAC" => {
                    if !value.is_empty() && crate::control::parse_mac(&value).is_err() {
                        return Err(invalid(format!(
                            "CNI_ARGS: MAC={value:?} is no MAC address"
                        )));
                    }
                    args.mac = some();
                }
                "K8S_POD_NAME" => args.pod_name = some(),
                "K8S_POD_NAMESPACE" => args.pod_namespace = some(),
                "K8S_POD_UID" => args.pod_uid = some(),
                // The container id once more.
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                _ => unknown.push(pair),
            }
        }
        match unknown.is_empty() || ignore_unknown {
            true => Ok(args),
            false => Err(invalid(format!(
                "CNI_ARGS: {} is not known to netbpf-cni, and IgnoreUnknown is not 1",
                unknown.join(", ")
            ))),
        }
    }
}

fn is_true(value: &str) -> Result<bool, CniError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => Err(invalid(format!(
            "CNI_ARGS: IgnoreUnknown={value:?} is neither 1 nor 0"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Call>, CniError> {
        Call::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn a_call_is_read() {
        let call = read(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "3f2a"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IP=10.1.0.5,fd00::5;MAC=02:00:00:00:00:01;X=y",
            ),
        ]);
        let call = call.unwrap().unwrap();
        assert_eq!(call.verb, Verb::Add);
        assert_eq!(call.ifname, "eth0");
        assert_eq!(
            call.args,
            Args {
                ips: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
                mac: Some("02:00:00:00:00:01".into()),
                pod_name: Some("web".into()),
                pod_namespace: Some("default".into()),
                pod_uid: None,
            }
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let refused = |variables: &[(&str, &str)]| {
            let error = read(variables).unwrap_err();
            assert_eq!(error.number, Number::InvalidEnvironment);
            error.message
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert!(refused(&[("CNI_COMMAND", "PUT")]).contains("\"PUT\""));
        let add = refused(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a")]);
        assert_eq!(add, "CNI_IFNAME, CNI_NETNS are not set");
        let long = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a")];
        let long = refused(&[&long[..], &[("CNI_IFNAME", "x".repeat(99).as_str())]].concat());
        assert!(long.starts_with("CNI_IFNAME \"xxx"), "{long}");
        let del = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "-a")];
        assert!(refused(&[&del[..], &[("CNI_IFNAME", "eth0")]].concat()).contains("\"-a\""));
        assert!(read(&[("CNI_COMMAND", "STATUS")]).is_ok());
    }

    #[test]
    fn arguments_that_make_no_sense_are_named() {
        let message = |text: &str| Args::parse(text).unwrap_err().message;
        assert!(message("IP").contains("\"IP\""));
        assert!(message("FOO=1;BAR=2").contains("FOO=1, BAR=2"));
        assert!(message("IP=ten").contains("IP=\"ten\""));
        assert!(message("MAC=x").contains("MAC=\"x\""));
        assert!(message("IgnoreUnknown=maybe").contains("maybe"));
        assert!(Args::parse("IgnoreUnknown=true;FOO=1").is_ok());
        assert_eq!(Args::parse(";IP=;").unwrap(), Args::default());
    }
}
