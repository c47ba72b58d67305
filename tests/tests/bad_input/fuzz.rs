//! Bodies and names that were mutated, at a real daemon: whatever comes is answered with a
//! stable code and leaves nothing, or is done and can be undone. What fails is made small
//! and printed; `PROPTEST_RNG_SEED` throws the same again, `NETBPF_FUZZ_CASES` so many.

use std::{cell::RefCell, collections::BTreeMap, env};

use netbpf::error::{Code, LONGEST_MESSAGE};
use netbpf_tests::lab::{Answer, Host, Namespace, SOON, call, street_with_networks, until};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestCaseResult, TestRunner},
};
use serde_json::{Value, json};

use crate::{
    frame::{Traces, endpoints_of, listings},
    thrown::{Request, Thrown, mutate, thrown},
};

/// Requests that are thrown where nobody says how many.
const CASES: u32 = 300;

/// A name as a segment of a path (RFC 3986 section 2.1).
fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Takes away what a request that fitted has made.
fn undo(host: &Host, request: Request, body: &[u8], answer: &Answer) -> TestCaseResult {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ask = |method, path: &str, body: &[u8]| {
        let undone = call(&host.socket(), method, path, body);
        let done = undone.status < 300;
        prop_assert!(done, "{method} {path} to undo {answer:?}: {undone:?}");
        Ok(())
    };
    match request {
        Request::Network => {
            let name = encoded(&text(&answer.body["name"]));
            ask("DELETE", &format!("/v1/networks/{name}"), b"")
        }
        Request::Attach => {
            let name = encoded(&text(&answer.body["name"]));
            let network = encoded(&text(&answer.body["network"]));
            ask(
                "DELETE",
                &format!("/v1/endpoints/{name}?network={network}"),
                b"",
            )
        }
        // What was published is taken back in the same words.
        Request::Publish => {
            let mut same: Value = serde_json::from_slice(body).expect("it was understood");
            let same = same.as_object_mut().expect("an object");
            same.remove("share");
            let same = Value::Object(same.clone()).to_string();
            ask("DELETE", "/v1/endpoints/web/ports", same.as_bytes())
        }
        // Terms are there until the port is taken back.
        Request::Update => {
            let port = json!({"publish": ["8080:80"]}).to_string();
            let ports = "/v1/endpoints/web/ports";
            ask("DELETE", ports, port.as_bytes())?;
            ask("POST", ports, port.as_bytes())
        }
        // Web has this port alone, in whatever words.
        Request::Unpublish | Request::Drain => {
            let port = json!({"publish": ["8080:80"]}).to_string();
            ask("POST", "/v1/endpoints/web/ports", port.as_bytes())
        }
        // Nothing there is of an engine.
        Request::Detach => Ok(()),
    }
}

/// How often requests were done and refused, so that both are seen to have been tried.
#[derive(Debug, Default)]
struct Count(RefCell<BTreeMap<String, [usize; 2]>>);

impl Count {
    fn add(&self, thrown: &Thrown, done: bool) {
        let what = match thrown {
            Thrown::Body(request, _) => format!("{request:?}"),
            Thrown::Name(method, _) => format!("{method} by name"),
        };
        self.0.borrow_mut().entry(what).or_default()[usize::from(done)] += 1;
    }

    fn of(&self, request: Request) -> [usize; 2] {
        let counts = self.0.borrow();
        counts
            .get(&format!("{request:?}"))
            .copied()
            .unwrap_or_default()
    }
}

fn is_answered(host: &Host, space: &Namespace, count: &Count, thrown: &Thrown) -> TestCaseResult {
    let (method, path, body) = match thrown {
        Thrown::Body(request, mutations) => {
            let (method, path) = request.line();
            let body = mutate(request.body(space.name()), mutations);
            (method, path.to_owned(), body)
        }
        Thrown::Name(method, name) => {
            // The street's own.
            if ["web", "app", "front", "back", "default"].contains(&name.as_str()) {
                return Ok(());
            }
            (
                *method,
                format!("/v1/endpoints/{}", encoded(name)),
                Vec::new(),
            )
        }
    };
    let before = listings(host);
    let answer = call(&host.socket(), method, &path, &body);
    count.add(thrown, answer.status < 300);
    let shown = String::from_utf8_lossy(&body).into_owned();
    let asked = format!("{method} {path} {shown}: {answer:?}");
    if answer.status < 300 {
        if let Thrown::Body(request, _) = thrown {
            undo(host, *request, &body, &answer)?;
        }
    } else {
        let code = Code::ALL.iter().find(|code| code.as_str() == answer.code());
        let code = code.ok_or_else(|| TestCaseError::fail(format!("no code: {asked}")))?;
        prop_assert!(*code != Code::Internal, "{asked}");
        prop_assert!(!answer.message().is_empty(), "{asked}");
        // A message is for a terminal.
        prop_assert!(!answer.message().contains(char::is_control), "{asked}");
        let length = answer.message().chars().count();
        prop_assert!(length <= LONGEST_MESSAGE, "{asked}");
    }
    prop_assert_eq!(listings(host), before, "{}", asked);
    Ok(())
}

#[test]
fn mutated_requests_are_refused_or_can_be_undone() {
    let street = street_with_networks("mutated", &[]);
    let host = &street.host;
    let (_web, _app, late) = endpoints_of(&street);
    let cases = env::var("NETBPF_FUZZ_CASES").map_or(CASES, |n| n.parse().expect("a number"));
    let before = Traces::of(host);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let count = Count::default();
    let run = TestRunner::new(config).run(&thrown(), |thrown| {
        is_answered(host, &late, &count, &thrown)
    });
    if let Err(error) = run {
        panic!("{error}\n{}", host.log());
    }
    // The kernel frees a device behind the answer.
    until(SOON, || Traces::of(host) == before);
    assert_eq!(Traces::of(host), before);
    eprintln!("refused, done: {count:?}");
    for request in [
        Request::Network,
        Request::Attach,
        Request::Publish,
        Request::Unpublish,
        Request::Update,
    ] {
        let [refused, done] = count.of(request);
        assert!(refused > 0 && done > 0, "{count:?}");
    }
    assert!(!host.log().contains("panicked"), "{}", host.log());
}
