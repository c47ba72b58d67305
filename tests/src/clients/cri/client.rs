//! Calls of CRI by gRPC through a Unix socket, each with a time limit.

use std::{path::Path, time::Duration};

use tokio::runtime::{Builder, Runtime};
use tonic::{
    Request, Response, Status,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

use super::messages::Call;

/// What one call may take: with fifty pods at a time on two CPUs each waits long.
const LIMIT: Duration = Duration::from_secs(120);

/// May be used by several threads at a time.
pub struct Client {
    /// Before the runtime, whose tasks serve it.
    channel: Channel,
    runtime: Runtime,
}

impl Client {
    /// Connects when it is first needed.
    pub fn new(socket: &Path) -> Client {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for gRPC");
        let address = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(address).expect("a socket's address");
        let channel = {
            let _inside = runtime.enter();
            endpoint.timeout(LIMIT).connect_lazy()
        };
        Client { channel, runtime }
    }

    /// Asks; what it refuses comes with its text.
    pub fn call<C: Call>(&self, request: C) -> Result<C::Answer, Status> {
        let path = Uri::from_static(C::PATH).into_parts().path_and_query;
        let path = path.expect("a path");
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            let unreachable = |e: tonic::transport::Error| Status::unavailable(e.to_string());
            grpc.ready().await.map_err(unreachable)?;
            let answer = grpc.unary(Request::new(request), path, ProstCodec::default());
            answer.await.map(Response::into_inner)
        })
    }
}
