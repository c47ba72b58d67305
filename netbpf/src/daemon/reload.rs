//! The configuration of a daemon that runs, and how it is read again.

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::tell_systemd;
use crate::{
    api::{Service, Socket},
    config::Config,
    error::Result,
    model::{ReloadInfo, SettingChange},
};

/// Where the configuration comes from, and what of it is not the daemon's own.
pub struct Source {
    /// Reads it again.
    pub load: Box<Load>,
    /// Lets the log be as it says.
    pub log: Box<SetLog>,
}

type Load = dyn Fn() -> Result<Config> + Send;
type SetLog = dyn Fn(&Config) -> Result<()> + Send;

/// What the daemon runs with at the moment.
pub struct Running {
    pub config: Config,
    pub source: Source,
}

impl Running {
    /// Reads the configuration again and applies what can be applied. One that
    /// makes no sense, or cannot be applied, changes nothing.
    pub async fn reload<S: Service>(&mut self, service: &S, socket: &Socket) -> Result<ReloadInfo> {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now().ok());
        tell_systemd(&states);
        let done = self.apply(service, socket).await;
        tell_systemd(&[NotifyState::Ready]);
        match &done {
            Ok(done) => {
                for SettingChange { key, before, after } in &done.applied {
                    info!(key, %before, %after, "setting changed");
                }
                for SettingChange { key, before, after } in &done.needs_restart {
                    warn!(key, %before, %after, "setting needs a restart to change");
                }
                info!("configuration read");
            }
            Err(error) => error!(%error, "the configuration stays as it was"),
        }
        done
    }

    async fn apply<S: Service>(&mut self, service: &S, socket: &Socket) -> Result<ReloadInfo> {
        let new = (self.source.load)()?;
        let (applied, needs_restart) = self.config.changes(&new);
        let next = self.config.with_live(&new);
        let (before, after) = (&self.config.settings, &next.settings);
        if before.socket_group != after.socket_group {
            socket.set_group(&after.socket_group)?;
        }
        if before != after {
            service.reload(after.clone()).await?;
        }
        (self.source.log)(&next)?;
        self.config = next;
        Ok(ReloadInfo {
            applied,
            needs_restart,
        })
    }
}
