//! HTTP/1.1 on a listening socket. A connection is asked one thing at a time,
//! as the protocol has it.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{Api, Service, router};

/// Where connections come from.
pub trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn connection(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn connection(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn connection(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

/// A connection on which no request comes for that long is closed, so that those
/// who forget theirs keep nobody out.
const IDLE: Duration = Duration::from_secs(30);

/// Serves the API on `listener`; see [`answer_all`].
pub async fn serve<S: Service>(
    listener: UnixListener,
    api: Api<S>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let connections = api.busy.limits().connections;
    answer_all(listener, router(api), connections, None, stop).await
}

/// Answers on `listener`, on so many connections at a time and on none for longer than
/// that, until `stop` is ready and the connections that are open then are done.
pub async fn answer_all(
    listener: impl Listener,
    router: Router,
    connections: usize,
    longest: Option<Duration>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(connections));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        // The semaphore is never closed.
        let place = places.clone().acquire_owned();
        let accepted = async {
            let place = place.await.map_err(io::Error::other)?;
            let stream = listener.connection().await?;
            Ok::<_, io::Error>((stream, place))
        };
        tokio::select! {
            () = &mut stop => break,
            accepted = accepted => match accepted {
                Ok((stream, place)) => answer(stream, longest, place, &router, &graceful),
                // Out of descriptors, or the client has gone already.
                Err(e) => {
                    warn!("a connection is not accepted: {e}");
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    longest: Option<Duration>,
    place: OwnedSemaphorePermit,
    router: &Router,
    graceful: &GracefulShutdown,
) {
    let service = TowerToHyperService::new(router.clone());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let done = match longest {
            Some(longest) => timeout(longest, connection).await,
            None => Ok(connection.await),
        };
        match done {
            Ok(Ok(())) => {}
            Ok(Err(e)) => debug!("a connection ended: {e}"),
            Err(_) => debug!("a connection took longer than {longest:?}"),
        }
        drop(place);
    });
}
