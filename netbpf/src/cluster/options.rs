//! Where etcd is, and what to show it.

use std::{fs, io, path::Path, path::PathBuf, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

/// How etcd is reached. Certificates, keys and the password are read anew for each
/// connection, so that they can be renewed in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `http://HOST:PORT` or `https://HOST:PORT`, each once; none: there is no cluster.
    pub endpoints: Vec<String>,
    /// Before every key, without a slash at its end.
    pub prefix: String,
    /// Who may have signed etcd's certificate; `None`: those that the system trusts.
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// Whole seconds. etcd raises what is below its own time of an election.
    pub lease_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            endpoints: Vec::new(),
            prefix: "/netbpf/v1".into(),
            cacert: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            lease_ttl: Duration::from_secs(10),
        }
    }
}

/// The time in which a connection must stand.
const CONNECT: Duration = Duration::from_secs(2);

impl Options {
    /// The first option that lacks another one or stands in its way, and why.
    pub fn misfit(&self) -> Option<(&'static str, String)> {
        let needs = |key, file: &PathBuf, other| {
            let reason = format!("{key} {:?}: {other} is missing", file.display());
            Some((key, reason))
        };
        match (&self.cert, &self.key) {
            (Some(cert), None) => return needs("etcd-cert", cert, "etcd-key"),
            (None, Some(key)) => return needs("etcd-key", key, "etcd-cert"),
            _ => {}
        }
        match (&self.user, &self.password_file) {
            (Some(user), None) => {
                let reason = format!("etcd-user {user:?}: etcd-password-file is missing");
                return Some(("etcd-user", reason));
            }
            (None, Some(file)) => return needs("etcd-password-file", file, "etcd-user"),
            _ => {}
        }
        let files = [("etcd-cacert", &self.cacert), ("etcd-cert", &self.cert)];
        let mut files = files
            .iter()
            .filter_map(|(key, file)| Some((key, file.as_ref()?)));
        let (key, file) = files.next()?;
        // Who gives certificates expects that nothing goes in the clear.
        let plain = self.endpoints.iter().find(|url| !is_tls(url))?;
        let shown = file.display();
        Some((key, format!("{key} {shown:?}: etcd {plain:?} is no https")))
    }

    /// What the client is to know for a connection to this URL.
    pub(super) fn connect(&self, url: &str) -> Result<ConnectOptions, String> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            // A member that has lost the others says so instead of being silent.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let (Some(user), Some(file)) = (&self.user, &self.password_file) {
            options = options.with_user(user, password(file)?);
        }
        if is_tls(url) {
            options = options.with_tls(self.tls()?);
        }
        Ok(options)
    }

    fn tls(&self) -> Result<TlsOptions, String> {
        let mut tls = match &self.cacert {
            Some(file) => {
                TlsOptions::new().ca_certificate(Certificate::from_pem(read("etcd-cacert", file)?))
            }
            None => TlsOptions::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let identity = Identity::from_pem(read("etcd-cert", cert)?, read("etcd-key", key)?);
            tls = tls.identity(identity);
        }
        Ok(tls)
    }
}

fn is_tls(url: &str) -> bool {
    url.starts_with("https://")
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|e| unreadable(key, file, &e))
}

fn password(file: &Path) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|e| unreadable("etcd-password-file", file, &e))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn unreadable(key: &str, file: &Path, error: &io::Error) -> String {
    format!("{key} {:?}: {error}", file.display())
}
