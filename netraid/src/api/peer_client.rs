//! Calls another node: one kept HTTP/1.1 connection over TLS, to the node that it is meant for and no other.

use std::error::Error as _;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use flags::NodeName;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::identity::{Identity, dns_name, node_of_dns_name};

/// Bytes of an answer that are taken.
pub const MAX_ANSWER: usize = 4 << 20;
/// Bytes of hyper's buffer, and so of an answer's head.
const BUFFER: usize = 64 << 10;
/// Characters of a refusal's body that are kept.
const MAX_REASON: usize = 4096;

/// Why a peer did not answer. After any of them but `Refused` and `Request` the connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No connection, or it broke.
    #[error("{node:?} cannot be reached at {address}: {error}")]
    Unreachable {
        /// The peer.
        node: NodeName,
        /// Its address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// Somebody answers there who is not that node of our cluster.
    #[error("{address} did not prove to be {expected:?}: {reason}")]
    NotAuthenticated {
        /// The peer.
        expected: NodeName,
        /// Its address.
        address: String,
        /// What its certificate is instead, with the names in it.
        reason: String,
    },
    /// The peer does not take our certificate.
    #[error("{node:?} at {address} does not accept the certificate of {own:?}: {reason}")]
    NotAccepted {
        /// The peer.
        node: NodeName,
        /// Its address.
        address: String,
        /// This node.
        own: NodeName,
        /// What the peer says.
        reason: String,
    },
    /// Not in time.
    #[error("{node:?} at {address} did not answer within {within:?}")]
    Deadline {
        /// The peer.
        node: NodeName,
        /// Its address.
        address: String,
        /// The time it had.
        within: Duration,
    },
    /// It says no.
    #[error("{node:?} answered {status}: {body}")]
    Refused {
        /// The peer.
        node: NodeName,
        /// The HTTP status, not of success.
        status: u16,
        /// What it says about it, shortened.
        body: String,
    },
    /// It is not understood.
    #[error("{node:?} at {address} sent what is no answer: {reason}")]
    Garbled {
        /// The peer.
        node: NodeName,
        /// Its address.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// More than [`MAX_ANSWER`] bytes.
    #[error("{node:?} at {address} sent an answer of more than {MAX_ANSWER} bytes")]
    TooLarge {
        /// The peer.
        node: NodeName,
        /// Its address.
        address: String,
    },
    /// What should be asked can't be written.
    #[error("cannot ask for {path}: {reason}")]
    Request {
        /// Method and path.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// A connection to a peer.
#[derive(Debug)]
pub struct PeerClient {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<Result<(), hyper::Error>>,
    /// An answer is outstanding, or one did not come as it should: nothing more can be asked.
    spent: bool,
    to: To,
}

/// Whom errors speak of.
#[derive(Clone, Debug)]
struct To {
    node: NodeName,
    address: String,
    own: NodeName,
}

impl Drop for PeerClient {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl PeerClient {
    /// Connects to `node` at `address` (`host:port`), and makes sure that it is that node. Whether the node takes us, too,
    /// shows in the first request. `deadline` counts from now.
    pub async fn connect(
        identity: &Identity,
        address: &str,
        node: &NodeName,
        deadline: Duration,
    ) -> Result<PeerClient, PeerError> {
        let to = To {
            node: node.clone(),
            address: address.to_owned(),
            own: identity.node().clone(),
        };
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            watch_for_silence(&stream, deadline)?;
            let name = ServerName::try_from(dns_name(node)).map_err(io::Error::other)?;
            let connector = TlsConnector::from(identity.client());
            connector.connect(name, stream).await
        };
        let stream = match timeout(deadline, connecting).await {
            Ok(connected) => connected.map_err(|error| to.connection_error(error))?,
            Err(_) => return Err(to.late(deadline)),
        };
        let (sender, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| to.http_error(&error))?;
        Ok(PeerClient {
            sender,
            driver: tokio::spawn(connection),
            spent: false,
            to,
        })
    }

    /// The node at the other end.
    pub fn node(&self) -> &NodeName {
        &self.to.node
    }

    /// Whether nothing more can be asked: connect again.
    pub fn is_closed(&self) -> bool {
        self.spent || self.sender.is_closed()
    }

    /// Asks for `path` with `question` as JSON (a `()` sends no body) and reads the answer as JSON (none is read as
    /// `null`). `deadline` counts from now. Cancelling closes the connection.
    pub async fn request<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        question: &Q,
        deadline: Duration,
    ) -> Result<A, PeerError> {
        let unwritable = |reason: String| PeerError::Request {
            path: format!("{method} {path}"),
            reason,
        };
        let body = serde_json::to_vec(question).map_err(|error| unwritable(error.to_string()))?;
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::HOST, dns_name(&self.to.node));
        let body = if body == b"null" {
            Bytes::new()
        } else {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Bytes::from(body)
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| unwritable(error.to_string()))?;
        if self.spent {
            return Err(self.to.unreachable(io::ErrorKind::NotConnected.into()));
        }
        // Until the answer is complete; also if this future is dropped before.
        self.spent = true;
        let sender = &mut self.sender;
        let asking = async {
            sender.ready().await.map_err(Failure::Http)?;
            let response = sender.send_request(request).await.map_err(Failure::Http)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER)
                .collect()
                .await
                .map_err(Failure::Body)?;
            Ok((head.status, body.to_bytes()))
        };
        let (status, body) = match timeout(deadline, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => return Err(self.explain(failure).await),
            Err(_) => {
                self.driver.abort();
                return Err(self.to.late(deadline));
            }
        };
        if !status.is_success() {
            self.spent = false;
            return Err(self.to.refused(status, &body));
        }
        let text = if body.is_empty() { b"null" } else { &body[..] };
        let answer =
            serde_json::from_slice(text).map_err(|error| self.to.garbled(error.to_string()))?;
        self.spent = false;
        Ok(answer)
    }

    /// The connection's own end says more than the request's, which may only know that there was an end.
    async fn explain(&mut self, failure: Failure) -> PeerError {
        let error = match failure {
            Failure::Body(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => *error,
                Err(error) if error.is::<LengthLimitError>() => {
                    self.driver.abort();
                    return PeerError::TooLarge {
                        node: self.to.node.clone(),
                        address: self.to.address.clone(),
                    };
                }
                Err(error) => return self.to.garbled(error.to_string()),
            },
            Failure::Http(error) => error,
        };
        let says_little = error.is_canceled() || error.is_closed();
        if says_little
            && let Ok(Ok(Ok(Err(ended)))) =
                timeout(LAST_WORD, async { Ok::<_, ()>((&mut self.driver).await) }).await
        {
            return self.to.http_error(&ended);
        }
        self.driver.abort();
        self.to.http_error(&error)
    }
}

/// How long to wait for the reason of an end that is known already.
const LAST_WORD: Duration = Duration::from_millis(100);

enum Failure {
    Http(hyper::Error),
    Body(Box<dyn std::error::Error + Send + Sync>),
}

impl To {
    fn unreachable(&self, error: io::Error) -> PeerError {
        PeerError::Unreachable {
            node: self.node.clone(),
            address: self.address.clone(),
            error,
        }
    }

    fn late(&self, within: Duration) -> PeerError {
        PeerError::Deadline {
            node: self.node.clone(),
            address: self.address.clone(),
            within,
        }
    }

    fn garbled(&self, reason: String) -> PeerError {
        PeerError::Garbled {
            node: self.node.clone(),
            address: self.address.clone(),
            reason,
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> PeerError {
        let text = String::from_utf8_lossy(&body[..body.len().min(MAX_REASON)]);
        PeerError::Refused {
            node: self.node.clone(),
            status: status.as_u16(),
            // It goes to terminals and logs.
            body: text.replace(|c: char| c.is_control(), " "),
        }
    }

    fn connection_error(&self, error: io::Error) -> PeerError {
        match tls_error(&error) {
            Some(tls) => self.tls_error(tls),
            None => self.unreachable(error),
        }
    }

    fn http_error(&self, error: &hyper::Error) -> PeerError {
        let mut cause = error.source();
        while let Some(at) = cause {
            if let Some(io) = at.downcast_ref::<io::Error>() {
                return match tls_error(io) {
                    Some(tls) => self.tls_error(tls),
                    None => self.unreachable(io::Error::new(io.kind(), io.to_string())),
                };
            }
            cause = at.source();
        }
        if error.is_parse() {
            return self.garbled(error.to_string());
        }
        self.unreachable(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            error.to_string(),
        ))
    }

    fn tls_error(&self, error: &rustls::Error) -> PeerError {
        use rustls::{CertificateError, Error};
        let reason = match error {
            Error::AlertReceived(alert) => {
                return PeerError::NotAccepted {
                    node: self.node.clone(),
                    address: self.address.clone(),
                    own: self.own.clone(),
                    reason: format!("{alert:?}"),
                };
            }
            Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            }) => {
                let names: Vec<String> = presented.iter().take(8).map(|name| shown(name)).collect();
                format!("its certificate is for {}", names.join(", "))
            }
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => "its certificate is of another CA than ours".to_owned(),
            Error::InvalidCertificate(error) => format!("its certificate is not valid: {error}"),
            Error::InvalidMessage(_) => return self.garbled(format!("no TLS: {error}")),
            error => return self.garbled(error.to_string()),
        };
        PeerError::NotAuthenticated {
            expected: self.node.clone(),
            address: self.address.clone(),
            reason,
        }
    }
}

/// The name of a node in a certificate, as rustls gives it (`DnsName("x")` or `x`).
fn shown(name: &str) -> String {
    let bare = name
        .strip_prefix("DnsName(\"")
        .and_then(|rest| rest.strip_suffix("\")"))
        .unwrap_or(name);
    match node_of_dns_name(bare) {
        Some(node) => format!("{node:?}"),
        None => format!("{bare:?}"),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// A peer whose cable is cut is noticed within about the time that an answer may take, also between requests.
fn watch_for_silence(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    let stream = stream.as_fd();
    let every = u32::try_from(silence.as_secs() / 4)
        .unwrap_or(u32::MAX)
        .clamp(1, 30);
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &every)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &every)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &3)?;
    let milliseconds = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&stream, sockopt::TcpUserTimeout, &milliseconds)?;
    Ok(())
}
