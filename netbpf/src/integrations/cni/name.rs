//! What an endpoint that an engine asks for is called. Engines know containers by long
//! ids; people, and `netbpf ps`, by what they called them.

use super::call::Call;

/// Longest name, as of a DNS label.
const LONGEST: usize = 63;

/// As many digits of a long id as engines show.
const SHORT_ID: usize = 12;

/// Names to try, one after the other, as long as they are taken.
pub fn candidates(call: &Call) -> Vec<String> {
    let id = &call.container_id;
    let short = match id.len() {
        ..=LONGEST => id.as_str(),
        _ => &id[..SHORT_ID],
    };
    let cut = &id[..id.len().min(LONGEST)];
    // A second interface on the same network; an interface's name may have other
    // characters than ours.
    let rest = LONGEST - 1 - call.ifname.len();
    let with_interface = format!("{}.{}", &cut[..cut.len().min(rest)], call.ifname);
    let mut names: Vec<String> = of_pod(call).into_iter().collect();
    for name in [short, cut, &with_interface] {
        if is_name(name) && !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Kubernetes' pods by name and namespace, Podman's containers by name: it has no
/// namespaces and says its name in the same place.
fn of_pod(call: &Call) -> Option<String> {
    let pod = call.args.pod_name.as_ref()?;
    let name = match &call.args.pod_namespace {
        Some(namespace) => format!("{pod}.{namespace}"),
        None => pod.clone(),
    };
    Some(name).filter(|name| is_name(name))
}

/// Whether the daemon takes it as a name.
pub fn is_name(name: &str) -> bool {
    crate::control::check_name("endpoint", name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integrations::cni::call::{Args, Verb};

    fn call(id: &str, pod: Option<&str>, namespace: Option<&str>) -> Call {
        Call {
            verb: Verb::Add,
            container_id: id.into(),
            netns: "/n".into(),
            ifname: "eth0".into(),
            args: Args {
                pod_name: pod.map(str::to_owned),
                pod_namespace: namespace.map(str::to_owned),
                ..Args::default()
            },
        }
    }

    #[test]
    fn names_are_those_that_people_know() {
        let long = "3f2a9c41d7e0".repeat(6);
        let of = |id: &str, pod, namespace| candidates(&call(id, pod, namespace));
        assert_eq!(of("web", None, None), ["web", "web.eth0"]);
        assert_eq!(of(&long, Some("web"), None)[..2], ["web", &long[..12]]);
        assert_eq!(of(&long, Some("web"), Some("prod"))[0], "web.prod");
        assert_eq!(of(&long, None, None)[0], &long[..12]);
        let pod = "p".repeat(60);
        assert_eq!(of(&long, Some(&pod), Some("prod"))[0], &long[..12]);
    }

    #[test]
    fn all_of_them_are_names() {
        for id in ["a", &"x".repeat(63), &"x".repeat(64), &"x".repeat(200)] {
            let mut call = call(id, Some("a b"), Some("?"));
            call.ifname = "fifteen-letters".into();
            let names = candidates(&call);
            assert!(!names.is_empty());
            assert!(names.iter().all(|name| is_name(name)), "{names:?}");
        }
    }
}
