//! `netbpf doctor`: by the daemon where there is one, else by ourselves.

use super::Done;
use crate::{
    cli::{
        args::{Doctor, Global},
        failure::Failure,
        output::Output,
    },
    client::{Client, ClientError},
    config::Typed,
    control::Control,
    model::{Finding, Severity},
};

pub async fn run(args: Doctor, global: &Global, output: &Output) -> Done {
    let client = Client::find(global.socket.as_deref());
    let found = match output
        .during("looking at everything", client.doctor())
        .await
    {
        Err(ClientError::Unreachable { socket, source }) => {
            let typed = Typed::new(args.directories, global.socket.clone(), args.config);
            let settings = typed.load()?.settings;
            Control::doctor_offline(&settings, &socket, &source.to_string())
        }
        answer => answer?,
    };
    output.show(&found)?;
    let is_error = |finding: &&Finding| finding.severity == Severity::Error;
    match found.iter().filter(is_error).count() {
        0 => Ok(()),
        errors => Err(Failure::Found(errors)),
    }
}
