//! What commands and pages may ask: the documents, the events as they happen, and orders.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::adjust::Adjuster;
use super::driver::Input;
use super::shared::{Shared, Shown};
use crate::api::document::{Answer, Order, Outcome};
use crate::api::metrics;

/// What everybody may read.
pub fn reading(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/mirrors", routing::get(mirrors))
        .route("/v1/mirrors/{tag}", routing::get(mirror))
        .route("/v1/events", routing::get(events))
        .route("/metrics", routing::get(metrics))
        .with_state(shared)
}

/// That, and orders.
pub(super) fn all(shared: Arc<Shared>, adjuster: Arc<Adjuster>) -> Router {
    let orders = Router::new().route("/v1/mirrors/{tag}/orders", routing::post(order));
    let adjusting = Router::new().route("/v1/adjust", routing::post(adjust));
    reading(Arc::clone(&shared))
        .merge(orders.with_state(shared))
        .merge(adjusting.with_state(adjuster))
}

async fn adjust(State(adjuster): State<Arc<Adjuster>>, Query(how): Query<How>) -> Response {
    let adjusted = tokio::task::spawn_blocking(move || adjuster.adjust(how.dry_run)).await;
    let answer = adjusted.unwrap_or_else(|error| Answer::not(Outcome::Failed, error, None));
    say(answer)
}

async fn mirrors(State(shared): State<Arc<Shared>>) -> Response {
    let until = Instant::now() + BEGIN;
    while !shared.all_begun() && Instant::now() < until {
        sleep(LOOK).await;
    }
    Json(shared.mirrors()).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let page = metrics::text(&shared.mirrors());
    ([("content-type", metrics::CONTENT_TYPE)], page).into_response()
}

async fn mirror(State(shared): State<Arc<Shared>>, Path(tag): Path<String>) -> Response {
    let until = Instant::now() + BEGIN;
    let why = loop {
        match shared.mirror(&tag) {
            Shown::Mirror(mirror) => return Json(*mirror).into_response(),
            Shown::Unknown => return unknown(&shared, &tag),
            Shown::Broken(why) => break why,
            Shown::NotYet if Instant::now() < until => sleep(LOOK).await,
            Shown::NotYet => break format!("netraidd has just begun with {tag}; ask again"),
        }
    };
    let answer = Answer::not(Outcome::Failed, why, None);
    (StatusCode::SERVICE_UNAVAILABLE, Json(answer)).into_response()
}

fn unknown(shared: &Shared, tag: &str) -> Response {
    let known = match shared.tags() {
        tags if tags.is_empty() => "none is configured".to_owned(),
        tags => format!("configured are {}", tags.join(", ")),
    };
    let why = format!("there is no mirror {tag} on {}; {known}", shared.node);
    let next = "netraid config check".to_owned();
    let answer = Answer::not(Outcome::Usage, why, Some(next));
    (StatusCode::NOT_FOUND, Json(answer)).into_response()
}

#[derive(Debug, Deserialize)]
struct Which {
    /// The last event that is known.
    #[serde(default)]
    after: u64,
    /// Of this mirror only.
    tag: Option<String>,
    /// Go on: one document a line, each with what is new.
    #[serde(default)]
    follow: bool,
}

async fn events(State(shared): State<Arc<Shared>>, Query(which): Query<Which>) -> Response {
    if !which.follow {
        return Json(shared.events(which.after, which.tag.as_deref())).into_response();
    }
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        let mut newest = shared.newest_event();
        let (mut after, mut first) = (which.after, true);
        loop {
            let news = shared.events(after, which.tag.as_deref());
            let (some, last) = (!news.events.is_empty(), news.last);
            if (some || first)
                && let Ok(mut line) = serde_json::to_vec(&news)
            {
                line.push(b'\n');
                // A listener that does not read waits here, and misses only what is forgotten meanwhile.
                if sender.send(Ok(line.into())).await.is_err() {
                    return;
                }
            }
            (after, first) = (last, false);
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    let body = Body::from_stream(Lines(receiver));
    ([("content-type", "application/x-ndjson")], body).into_response()
}

/// A channel as a stream.
struct Lines(mpsc::Receiver<Result<Bytes, Infallible>>);

impl futures_core::Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

#[derive(Debug, Deserialize)]
struct How {
    #[serde(default, rename = "dry-run")]
    dry_run: bool,
}

async fn order(
    State(shared): State<Arc<Shared>>,
    Path(tag): Path<String>,
    Query(how): Query<How>,
    body: Bytes,
) -> Response {
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => {
            let why = format!("the order is not understood: {error}");
            return say(Answer::not(Outcome::Usage, why, None));
        }
    };
    let Some(inputs) = shared.inputs(&tag) else {
        return unknown(&shared, &tag);
    };
    let (sender, receiver) = oneshot::channel();
    let input = Input::Order {
        order,
        dry_run: how.dry_run,
        answer: sender,
    };
    if inputs.try_send(input).is_err() {
        let why = format!("{tag} has too many orders already");
        return say(Answer::not(Outcome::Failed, why, None));
    }
    say(match timeout(PATIENCE, receiver).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Answer::not(Outcome::Failed, "the daemon ends", None),
        Err(_) => Answer::not(
            Outcome::Late,
            format!("{tag} has not answered within {} s", PATIENCE.as_secs()),
            Some(format!("netraid status {tag}")),
        ),
    })
}

fn say(answer: Answer) -> Response {
    let status = match answer.outcome {
        Outcome::Done => StatusCode::OK,
        Outcome::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        Outcome::Usage => StatusCode::BAD_REQUEST,
        Outcome::Refused => StatusCode::CONFLICT,
        Outcome::Late => StatusCode::GATEWAY_TIMEOUT,
    };
    (status, Json(answer)).into_response()
}

/// How long who asks waits for a mirror whose thread has just begun.
const BEGIN: Duration = Duration::from_secs(5);
/// From one look at it to the next.
const LOOK: Duration = Duration::from_millis(10);
/// Longest wait for an order to be carried out: a start or a stop may take a minute.
const PATIENCE: Duration = Duration::from_secs(120);
