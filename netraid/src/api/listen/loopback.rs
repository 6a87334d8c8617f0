//! Serves readers on this machine over plain HTTP: a page in a browser, a GUI's poll, a metrics collector. Read-only.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::connections::{Connections, take};
use super::serve::{Gate, accept_failed, connection, last};
use super::{ListenError, Stop, Terms};

/// Listens at an address that only this machine reaches; others are refused.
pub async fn bind_loopback(address: SocketAddr) -> Result<TcpListener, ListenError> {
    if !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::NotLoopback(address));
    }
    TcpListener::bind(address)
        .await
        .map_err(|error| ListenError::System {
            at: address.to_string(),
            error,
        })
}

/// Serves the GET routes of `router` until `stop`. Every user of this machine may connect. A request that a page of a
/// foreign site makes through a name that it has pointed here (DNS rebinding) is refused by its `Host`.
pub async fn loopback(
    listener: TcpListener,
    router: Router,
    terms: Terms,
    mut stop: Stop,
) -> Result<(), ListenError> {
    match listener.local_addr() {
        Ok(address) if !address.ip().to_canonical().is_loopback() => {
            return Err(ListenError::NotLoopback(address));
        }
        Ok(_) => {}
        Err(error) => {
            let at = "loopback".to_owned();
            return Err(ListenError::System { at, error });
        }
    }
    let connections = Connections::new(&terms.limits);
    let gate: Arc<Gate> = Arc::new(only_local_readers);
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = stop.stopped() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                terms.counters.count_accepted();
                let Some(served) = take(&connections.served) else {
                    terms.counters.count_too_many();
                    continue;
                };
                let serving = connection(
                    stream,
                    router.clone(),
                    Arc::clone(&gate),
                    terms.clone(),
                    stop.clone(),
                );
                tasks.spawn(async move {
                    serving.await;
                    drop(served);
                });
            }
            Err(error) => accept_failed(error).await,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn only_local_readers(request: &mut Request) -> Result<(), Box<Response>> {
    let refuse = |status, reason: &str| Err(Box::new(last(status, reason)));
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = last(StatusCode::METHOD_NOT_ALLOWED, "here things are only read");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return Err(Box::new(response));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return refuse(StatusCode::BAD_REQUEST, "one Host header is needed");
    };
    let named = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    if !host.to_str().is_ok_and(is_local) || !named.is_none_or(is_local) {
        return refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "the Host is not this machine",
        );
    }
    // Nobody reads it, and a reader sends none.
    *request.body_mut() = Body::empty();
    Ok(())
}

/// Whether a `Host` (a name or address, perhaps with a port) means this machine by itself, without any name service.
fn is_local(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => match port.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.1.2.3:8080",
            "[::1]",
            "[::1]:80",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "[::2]:80",
            "[::1]x",
            "localhost:",
            "localhost:x",
            "localhost@evil",
            "0.0.0.0",
            "127.1",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
