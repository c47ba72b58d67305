//! HTTP/1.1 over the unix socket, and what can go wrong with it.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::sleep};
use tracing::debug;

use crate::model::{ErrorBody, ErrorInfo};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon behind the socket, or none that we may speak to.
    #[error("{}", unreachable(socket, source))]
    Unreachable { socket: PathBuf, source: io::Error },
    /// The connection ended before the answer: what was asked for may be done.
    #[error("the daemon on {} {}", socket.display(), match source {
        Some(_) => "went away before it answered",
        None => "has ended",
    })]
    Lost {
        socket: PathBuf,
        /// Nothing, where an answer without end has ended.
        source: Option<hyper::Error>,
    },
    /// What the daemon says. The code is kept as text: a newer daemon may have
    /// codes that we do not know.
    #[error("{}", .0.message)]
    Refused(ErrorInfo),
    /// It has too much to do; nothing was begun.
    #[error("{}", .info.message)]
    Busy {
        info: ErrorInfo,
        retry_after: Duration,
    },
    #[error("the daemon on {} sent an answer that cannot be read: {reason}", socket.display())]
    Garbled { socket: PathBuf, reason: String },
}

fn unreachable(socket: &Path, source: &io::Error) -> String {
    let socket = socket.display();
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "no permission for the daemon's socket {socket}: be root or a member of the group netbpf"
        ),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no daemon answers on {socket}: start it with \"netbpf daemon\" or \"systemctl start \
             netbpf\", or name its socket by --socket or NETBPF_SOCKET"
        ),
        _ => format!("no daemon answers on {socket}: {source}"),
    }
}

/// How long a request that is too much for the daemon is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends one request and reads the answer. Where the daemon has too much to do,
/// which it says before it has begun, it is asked again.
pub async fn request<B: Serialize, T: DeserializeOwned>(
    socket: &Path,
    method: &'static str,
    path: &str,
    body: Option<&B>,
) -> Result<T, ClientError> {
    let began = Instant::now();
    loop {
        let answer = request_once(socket, method, path, body).await;
        match answer {
            Err(ClientError::Busy { retry_after, .. })
                if began.elapsed() + retry_after < PATIENCE =>
            {
                debug!("{method} {path}: again in {retry_after:?}");
                sleep(retry_after).await;
            }
            Err(ClientError::Busy { info, .. }) => return Err(ClientError::Refused(info)),
            answer => return answer,
        }
    }
}

async fn request_once<B: Serialize, T: DeserializeOwned>(
    socket: &Path,
    method: &'static str,
    path: &str,
    body: Option<&B>,
) -> Result<T, ClientError> {
    let response = send(socket, method, path, body).await?;
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
    let bytes = response
        .into_body()
        .collect()
        .await
        .map_err(|source| lost(socket, source))?
        .to_bytes();
    debug!("{method} {path}: {status}");
    read(status, &bytes).map_err(|error| match error {
        Unread::Refused(info) if status == StatusCode::TOO_MANY_REQUESTS => {
            let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            ClientError::Busy {
                info,
                retry_after: Duration::from_secs(seconds.unwrap_or(1)),
            }
        }
        Unread::Refused(info) => ClientError::Refused(info),
        Unread::Garbled(reason) => garbled(socket, reason),
    })
}

fn garbled(socket: &Path, reason: impl ToString) -> ClientError {
    ClientError::Garbled {
        socket: socket.into(),
        reason: reason.to_string(),
    }
}

fn lost(socket: &Path, source: hyper::Error) -> ClientError {
    ClientError::Lost {
        socket: socket.into(),
        source: Some(source),
    }
}

/// Sends a request; the answer's body is still to come.
async fn send<B: Serialize>(
    socket: &Path,
    method: &'static str,
    path: &str,
    body: Option<&B>,
) -> Result<Response<Incoming>, ClientError> {
    let body = match body {
        Some(body) => serde_json::to_vec(body).map_err(|e| garbled(socket, e))?,
        None => Vec::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "netbpf")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| garbled(socket, e))?;
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Unreachable {
            socket: socket.into(),
            source,
        })?;
    let lost = |source| lost(socket, source);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(lost)
}

/// An answer that goes on, a line of JSON for each value.
pub struct Lines {
    socket: PathBuf,
    body: Incoming,
    /// What has come of the lines that are not handed out yet.
    rest: Vec<u8>,
}

/// Asks for such an answer.
pub async fn lines(socket: &Path, path: &str) -> Result<Lines, ClientError> {
    let response = send::<()>(socket, "GET", path, None).await?;
    let status = response.status();
    debug!("GET {path}: {status}");
    let body = response.into_body();
    if status.is_success() {
        return Ok(Lines {
            socket: socket.into(),
            body,
            rest: Vec::new(),
        });
    }
    let bytes = body
        .collect()
        .await
        .map_err(|source| lost(socket, source))?;
    Err(match read::<()>(status, &bytes.to_bytes()) {
        Err(Unread::Refused(info)) => ClientError::Refused(info),
        Err(Unread::Garbled(reason)) => garbled(socket, reason),
        Ok(()) => garbled(socket, format!("status {status}")),
    })
}

impl Lines {
    /// Waits for the next value. An end is the daemon's, and an error.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|e| garbled(&self.socket, e));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.rest.extend_from_slice(data);
                    }
                }
                Some(Err(source)) => return Err(lost(&self.socket, source)),
                None => {
                    return Err(ClientError::Lost {
                        socket: self.socket.clone(),
                        source: None,
                    });
                }
            }
        }
    }
}

enum Unread {
    Refused(ErrorInfo),
    Garbled(String),
}

fn read<T: DeserializeOwned>(status: StatusCode, bytes: &[u8]) -> Result<T, Unread> {
    if status.is_success() {
        return serde_json::from_slice(bytes).map_err(|e| Unread::Garbled(e.to_string()));
    }
    Err(match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => Unread::Refused(body.error),
        Err(_) => Unread::Garbled(format!("status {status}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: io::ErrorKind) -> String {
        ClientError::Unreachable {
            socket: "/run/x.sock".into(),
            source: kind.into(),
        }
        .to_string()
    }

    #[test]
    fn unreachable_names_socket_and_remedy() {
        let missing = message(io::ErrorKind::NotFound);
        assert!(missing.contains("/run/x.sock") && missing.contains("netbpf daemon"));
        let denied = message(io::ErrorKind::PermissionDenied);
        assert!(denied.contains("/run/x.sock") && denied.contains("group netbpf"));
        assert!(message(io::ErrorKind::TimedOut).contains("timed out"));
    }

    #[test]
    fn unknown_codes_are_handed_on() {
        let body = br#"{"error":{"code":"brand_new","message":"m"}}"#;
        match read::<()>(StatusCode::CONFLICT, body) {
            Err(Unread::Refused(info)) => assert_eq!(info.code, "brand_new"),
            _ => panic!("must be refused"),
        }
        assert!(matches!(
            read::<()>(StatusCode::BAD_GATEWAY, b"<html>"),
            Err(Unread::Garbled(_))
        ));
    }
}
