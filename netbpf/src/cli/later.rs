//! What the interface has and this version does not do yet: parsed, so that it
//! is told from a typing error, kept out of the help, and refused by name.

use super::{
    args::{Attach, Command, Encap},
    failure::Failure,
};
use crate::{
    error::{Code, Error},
    model::Driver,
};

/// The refusal of a feature.
pub fn feature(name: &str) -> Failure {
    Failure::Refused(Error::new(
        Code::NotImplemented,
        format!("{name} is not implemented in this version"),
    ))
}

/// Hands the command back if all of it is there.
pub fn refuse(command: Command) -> Result<Command, Failure> {
    match asked_for(&command) {
        Some(name) => Err(feature(name)),
        None => Ok(command),
    }
}

fn asked_for(command: &Command) -> Option<&'static str> {
    use super::args::NetworkVerb::Create;

    match command {
        Command::Run(_) => Some("netbpf run"),
        Command::Exec(_) => Some("netbpf exec"),
        Command::Stop(_) => Some("netbpf stop"),
        Command::Update(update) => {
            let rates = (&update.ingress_rate, &update.egress_rate);
            of_rates(rates.0.as_deref(), rates.1.as_deref())
        }
        Command::Capture(_) => Some("netbpf capture"),
        Command::Trace(_) => Some("netbpf trace"),
        Command::Network(network) => match &network.verb {
            Create(create) => match create.driver {
                Driver::Lan => Some("--driver lan"),
                _ if create.parent.is_some() => Some("--parent"),
                _ if create.encap == Some(Encap::None) => Some("--encap none"),
                Driver::Bridge | Driver::Overlay => None,
            },
            _ => None,
        },
        Command::Attach(attach) => of_attach(attach),
        _ => None,
    }
}

fn of_attach(attach: &Attach) -> Option<&'static str> {
    let resolv_conf = attach.resolv_conf.as_ref().map(|_| "--resolv-conf");
    of_rates(
        attach.ingress_rate.as_deref(),
        attach.egress_rate.as_deref(),
    )
    .or(resolv_conf)
}

fn of_rates(ingress: Option<&str>, egress: Option<&str>) -> Option<&'static str> {
    let ingress = ingress.map(|_| "--ingress-rate");
    ingress.or(egress.map(|_| "--egress-rate"))
}
