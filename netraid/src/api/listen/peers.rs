//! Serves the other nodes: TLS, a certificate of the cluster's CA, and the name of a configured node in it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use flags::NodeName;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use super::connections::{Connections, Place, take};
use super::serve::{Gate, accept_failed, connection, last};
use super::{Stop, Terms};
use crate::api::identity::{Identity, is_for, presented};

/// The node that calls, as its certificate proves; an `Extension` of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(pub NodeName);

/// The nodes that may call, asked at each connection and each request.
pub type Allowed = Arc<dyn Fn() -> Vec<NodeName> + Send + Sync>;

/// What a stranger sent after a failed handshake is read and dropped up to here: closing with unread bytes makes the
/// kernel send a reset, which overtakes the alert that says why.
const DRAINED: u64 = 64 << 10;
/// And this long.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// Serves `router` to the nodes that `allowed` names, until `stop`. Handlers get an `Extension<PeerName>`.
pub async fn peers(
    listener: TcpListener,
    identity: Arc<Identity>,
    allowed: Allowed,
    router: Router,
    terms: Terms,
    mut stop: Stop,
) {
    let connections = Connections::new(&terms.limits);
    let house = House {
        acceptor: TlsAcceptor::from(identity.server()),
        allowed,
        router,
        terms,
        connections,
        stop: stop.clone(),
    };
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = stop.stopped() => break,
        };
        match accepted {
            Ok((stream, from)) => {
                house.terms.counters.count_accepted();
                let permits = (
                    house.connections.place(from.ip()),
                    take(&house.connections.handshakes),
                );
                let (Some(place), Some(handshake)) = permits else {
                    house.terms.counters.count_too_many();
                    house.complain(from, "it has, or all have, too many connections");
                    continue;
                };
                tasks.spawn(house.clone().welcome(stream, from, place, handshake));
            }
            Err(error) => accept_failed(error).await,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

#[derive(Clone)]
struct House {
    acceptor: TlsAcceptor,
    allowed: Allowed,
    router: Router,
    terms: Terms,
    connections: Arc<Connections>,
    stop: Stop,
}

impl House {
    async fn welcome(
        self,
        stream: TcpStream,
        from: SocketAddr,
        _place: Place,
        handshake: OwnedSemaphorePermit,
    ) {
        let mut stop = self.stop.clone();
        let deadline = self.terms.limits.handshake;
        let greeted = tokio::select! {
            greeted = timeout(deadline, greet(&self.acceptor, stream)) => greeted,
            () = stop.stopped() => return,
        };
        let stream = match greeted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.refuse_stranger(from, &error.to_string()),
            Err(_) => return self.refuse_stranger(from, "no TLS handshake in time"),
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let Some(certificate) = certificates.and_then(<[_]>::first) else {
            return self.refuse_stranger(from, "it has no certificate");
        };
        match self.configured(certificate) {
            Some(node) => {
                let Some(_served) = take(&self.connections.served) else {
                    self.terms.counters.count_too_many();
                    return self.complain(from, "there are too many connections");
                };
                drop(handshake);
                self.serve(stream, node).await;
            }
            None => {
                self.terms.counters.count_not_configured();
                let presented = presented(certificate);
                self.complain(
                    from,
                    &format!("its certificate is for {presented}, no configured node"),
                );
                // It keeps its place among the handshakes, and gets an answer that says why.
                let answer = Router::new();
                let gate: Arc<Gate> = Arc::new(move |_| {
                    let reason = format!("{presented} is not a configured node here");
                    Err(Box::new(last(StatusCode::FORBIDDEN, &reason)))
                });
                let answered =
                    connection(stream, answer, gate, self.terms.clone(), self.stop.clone());
                let _ = timeout(deadline, answered).await;
            }
        }
    }

    /// The configured node for which a verified certificate is; none also if it is for several.
    fn configured(&self, certificate: &CertificateDer<'_>) -> Option<NodeName> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let mut nodes = (self.allowed)()
            .into_iter()
            .filter(|node| is_for(&certificate, node));
        nodes
            .next()
            .filter(|node| nodes.all(|other| other == *node))
    }

    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        node: NodeName,
    ) -> impl Future<Output = ()> + use<> {
        let allowed = Arc::clone(&self.allowed);
        let gate: Arc<Gate> = Arc::new(move |request| {
            // The configuration may have changed since the handshake.
            if !allowed().contains(&node) {
                let reason = format!("{node:?} is no longer a configured node here");
                return Err(Box::new(last(StatusCode::FORBIDDEN, &reason)));
            }
            request.extensions_mut().insert(PeerName(node.clone()));
            Ok(())
        });
        connection(
            stream,
            self.router.clone(),
            gate,
            self.terms.clone(),
            self.stop.clone(),
        )
    }

    fn refuse_stranger(&self, from: SocketAddr, reason: &str) {
        self.terms.counters.count_handshake_failed();
        self.complain(from, reason);
    }

    fn complain(&self, from: SocketAddr, reason: &str) {
        if self.connections.complain(from.ip()) {
            tracing::warn!(%from, reason, "a connection was refused (said once a minute for an address)");
        }
    }
}

async fn greet(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    // Answers are small and waited for.
    stream.set_nodelay(true)?;
    match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, mut stream)) => {
            let drain = async {
                stream.shutdown().await?;
                tokio::io::copy(&mut stream.take(DRAINED), &mut tokio::io::sink()).await
            };
            let _ = timeout(DRAIN_TIME, drain).await;
            Err(error)
        }
    }
}
