//! One HTTP/1.1 connection, whoever it is from.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::stall::Stall;
use super::{Limits, Stop, Terms};

/// Bytes of hyper's buffers for a connection, each way.
const BUFFER: usize = 64 << 10;
/// After an error of accept(2), most likely too many open files: the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Looks at each request before the router does: adds what is known of the caller, or answers it (boxed: most don't).
pub(super) type Gate = dyn Fn(&mut Request) -> Result<(), Box<Response>> + Send + Sync;

/// Serves one connection until it ends, errs or has to stop.
pub(super) async fn connection<S>(
    io: S,
    router: Router,
    gate: Arc<Gate>,
    terms: Terms,
    mut stop: Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = terms.limits;
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, gate) = (router.clone(), Arc::clone(&gate));
        async move { Ok::<Response, Infallible>(answer(request, router, &*gate, &limits).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_header_size(limits.head_bytes)
        .max_headers(limits.header_lines)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Stall::new(io, limits.stall)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.stopped() => {
            connection.as_mut().graceful_shutdown();
            timeout(limits.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        terms.counters.count_broken();
        tracing::debug!(%error, "a connection broke");
    }
}

async fn answer(
    request: Request<Incoming>,
    router: TowerToHyperService<Router>,
    gate: &Gate,
    limits: &Limits,
) -> Response {
    let most = usize::try_from(limits.body).unwrap_or(usize::MAX);
    // Said before anything is sent: not even begun to read.
    let announced = request.headers().get(header::CONTENT_LENGTH);
    if announced.is_some_and(|length| !at_most(length, limits.body)) {
        return last(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("at most {most} bytes are taken"),
        );
    }
    let mut request = request.map(|body| Body::new(Limited::new(body, most)));
    if let Err(refusal) = gate(&mut request) {
        return *refusal;
    }
    match timeout(limits.request, router.call(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => last(StatusCode::REQUEST_TIMEOUT, "it took too long"),
    }
}

fn at_most(length: &HeaderValue, most: u64) -> bool {
    length
        .to_str()
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|length| length <= most)
}

/// An answer after which the connection is closed.
pub(super) fn last(status: StatusCode, reason: &str) -> Response {
    let body = axum::Json(serde_json::json!({ "error": reason }));
    let mut response = (status, body).into_response();
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What to do about an error of accept(2): it is not the listener's end.
pub(super) async fn accept_failed(error: std::io::Error) {
    tracing::warn!(%error, "cannot take a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
