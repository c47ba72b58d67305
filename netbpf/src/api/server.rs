//! HTTP/1.1 on the listening socket. A connection is asked one thing at a time,
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
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::{debug, warn};

use super::{Api, Service, router};

/// A connection on which no request comes for that long is closed, so that those
/// who forget theirs keep nobody out.
const IDLE: Duration = Duration::from_secs(30);

/// Answers on `listener` until `stop` is ready and the connections that are
/// open then are done.
pub async fn serve<S: Service>(
    listener: UnixListener,
    api: Api<S>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(api.busy.limits().connections));
    let router = router(api);
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        // The semaphore is never closed.
        let place = places.clone().acquire_owned();
        let accepted = async {
            let place = place.await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, place))
        };
        tokio::select! {
            () = &mut stop => break,
            accepted = accepted => match accepted {
                Ok((stream, place)) => answer(stream, place, &router, &graceful),
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
    stream: UnixStream,
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
        if let Err(e) = connection.await {
            debug!("a connection ended: {e}");
        }
        drop(place);
    });
}
