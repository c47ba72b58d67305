//! The commands: each asks the daemon and shows what it answers.

mod daemon;
mod doctor;
mod each;
mod endpoint;
mod engines;
mod generate;
mod monitor;
mod network;
mod node;
mod observe;
mod teardown;
#[cfg(test)]
mod tests;

use super::{
    args::{Command, Daemon, Global},
    failure::Failure,
    logging,
    output::Output,
    top,
};
use crate::{
    client::Client, config::Typed, control::Control, daemon::Source, model::UpgradeOutcome,
};

pub use monitor::ended;

pub type Done = Result<(), Failure>;

/// Runs the daemon in this process, or says what it would run with, or do.
pub fn daemon(args: Daemon, global: &Global, output: &Output) -> Done {
    let typed = Typed::new(args.options, global.socket.clone(), args.config);
    let config = typed.load()?;
    let directives = logging::of_daemon(global, &config);
    if args.check_config {
        return Ok(output.show(&config.shown())?);
    }
    if args.upgrade_check {
        let found = Control::upgrade_check(&config.settings)?;
        output.show(&found)?;
        let refused = found
            .iter()
            .filter(|one| one.outcome == UpgradeOutcome::Refused);
        return match refused.count() {
            0 => Ok(()),
            refused => Err(Failure::Found(refused)),
        };
    }
    let log = logging::start(config.log_format, &directives)?;
    let global = global.clone();
    let source = Source {
        load: Box::new(move || typed.load()),
        log: Box::new(move |config| log.set(&logging::of_daemon(&global, config))),
    };
    Ok(crate::daemon::run(config, source)?)
}

/// Runs any other command.
pub async fn run(command: Command, global: &Global, output: &Output) -> Done {
    let client = Client::find(global.socket.as_deref());
    match command {
        Command::Network(network) => network::run(network.verb, &client, output).await,
        Command::Node(node) => node::run(node.verb, &client, output).await,
        Command::Attach(attach) => endpoint::attach(*attach, &client, output).await,
        Command::Detach(detach) => endpoint::detach(detach, &client, output).await,
        Command::Ps(ps) => endpoint::ps(ps, &client, output).await,
        Command::Inspect(inspect) => endpoint::inspect(inspect, &client, output).await,
        Command::Publish(publish) => endpoint::publish(publish, &client, output).await,
        Command::Unpublish(unpublish) => endpoint::unpublish(unpublish, &client, output).await,
        Command::Update(update) => endpoint::update(update, &client, output).await,
        Command::Port(port) => endpoint::port(port, &client, output).await,
        Command::Status(status) => observe::status(status, &client, output).await,
        Command::Flows(flows) => observe::flows(*flows, &client, output).await,
        Command::Drops(drops) => observe::drops(drops, &client, output).await,
        Command::Monitor(monitor) => monitor::run(monitor, &client, output).await,
        Command::Top(args) => top::run(args, &client, output).await,
        Command::Doctor(args) => doctor::run(args, global, output).await,
        Command::Reload(_) => daemon::reload(&client, output).await,
        Command::Teardown(teardown) => teardown::run(teardown, global, output).await,
        Command::OciHook(hook) => engines::oci_hook(hook, &client).await,
        Command::Completions(completions) => generate::completions(completions.shell, output),
        Command::Generate(generate) => generate::all(&generate.directory, output),
        // `daemon` has a runtime of its own and the rest is refused before.
        other => Err(Failure::Usage(format!(
            "{other:?} is not a client's command"
        ))),
    }
}
