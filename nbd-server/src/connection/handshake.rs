//! Haggling with a client until it has chosen an export, within a time limit.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use linux_sys::socket::{Wait, receive, send};
use nbd_protocol::check::ExportShape;
use nbd_protocol::negotiate::server::{HandshakeError, Negotiated, Progress, ServerHandshake};

use crate::connection::input::IDLE;
use crate::export::{Export, JoinError};
use crate::line::Line;
use crate::server::Shared;

/// What transmission begins with.
pub(super) struct Agreed {
    pub(super) export: Arc<Export>,
    pub(super) shape: ExportShape,
    pub(super) contexts: Vec<(u32, usize)>,
    /// What the client sent behind its last option.
    pub(super) received: BytesMut,
    pub(super) session: Option<String>,
}

/// Why there is no transmission.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTransmission {
    #[error("the client said goodbye")]
    Goodbye,
    #[error("the client left in the middle of the handshake")]
    Left,
    #[error("the handshake took too long")]
    TooLong,
    #[error("the handshake failed: {0}")]
    Failed(#[from] HandshakeError),
    #[error("the client's session is fenced by generation {0}")]
    Fenced(u64),
    #[error("the export was removed")]
    Removed,
    #[error("the client asked for TLS, which is not built")]
    Tls,
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
}

pub(super) fn run(shared: &Shared, line: &Arc<Line>) -> Result<Agreed, NoTransmission> {
    let deadline = Instant::now() + shared.options.handshake_timeout;
    line.socket.prepare()?;
    line.socket
        .set_send_timeout(Some(shared.options.handshake_timeout))?;
    let mut handshake = ServerHandshake::new(shared.options.policy);
    let mut output = BytesMut::from(&handshake.greeting()[..]);
    let mut input = BytesMut::new();
    loop {
        if shared.is_stopping() {
            handshake.shut_down();
        }
        let progress = handshake.receive(&mut input, shared, &mut output);
        if let Ok(Progress::Transmission(negotiated)) = progress {
            // Older sessions are fenced before the client hears that it is in.
            let agreed = agree(shared, line, *negotiated, input)?;
            send_all(line, &mut output)?;
            line.socket.set_send_timeout(None)?;
            line.socket.set_receive_timeout(Some(IDLE))?;
            return Ok(agreed);
        }
        send_all(line, &mut output)?;
        match progress? {
            Progress::NeedMore => receive_some(line, &mut input, deadline)?,
            Progress::Drain => {}
            Progress::StartTls => return Err(NoTransmission::Tls),
            _ => return Err(NoTransmission::Goodbye),
        }
        if Instant::now() >= deadline {
            return Err(NoTransmission::TooLong);
        }
    }
}

fn agree(
    shared: &Shared,
    line: &Arc<Line>,
    negotiated: Negotiated,
    received: BytesMut,
) -> Result<Agreed, NoTransmission> {
    let export = shared
        .find_export(&negotiated.asked)
        .ok_or(NoTransmission::Removed)?;
    // Before joining: whoever finds the line there also finds its export.
    let _ = line.export.set(Arc::clone(&export));
    if negotiated.ordered {
        line.keep_order();
    }
    if negotiated.integrity {
        line.seal();
    }
    export
        .join(line, negotiated.session)
        .map_err(|error| match error {
            JoinError::Fenced { newest } => NoTransmission::Fenced(newest),
            JoinError::Removed => NoTransmission::Removed,
        })?;
    let shape = ExportShape {
        size: negotiated.export.size,
        flags: negotiated.export.flags,
        minimum_block: negotiated.export.minimum_block,
        maximum_payload: negotiated.export.maximum_payload,
        style: negotiated.style,
        contexts: negotiated.contexts.len(),
    };
    Ok(Agreed {
        export,
        shape,
        contexts: negotiated
            .contexts
            .iter()
            .map(|context| (context.id, context.index))
            .collect(),
        received,
        session: negotiated.session.map(|session| session.to_string()),
    })
}

fn receive_some(
    line: &Line,
    input: &mut BytesMut,
    deadline: Instant,
) -> Result<(), NoTransmission> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(NoTransmission::TooLong);
    }
    line.socket.set_receive_timeout(Some(left))?;
    let most = RECEIVE.min(
        ServerHandshake::MAX_INPUT
            .saturating_sub(input.len())
            .max(1),
    );
    match receive(line.socket.as_fd(), input, most, Wait::Yes) {
        Ok(0) => Err(NoTransmission::Left),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(NoTransmission::TooLong),
        Err(error) => Err(error.into()),
    }
}

fn send_all(line: &Line, output: &mut BytesMut) -> io::Result<()> {
    while !output.is_empty() {
        let count = send(line.socket.as_fd(), &[IoSlice::new(output)], Wait::Yes)?;
        output.advance(count);
    }
    Ok(())
}

/// Bytes asked for at once; options are small.
const RECEIVE: usize = 4 << 10;
