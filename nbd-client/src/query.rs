//! Asking a server about its exports without using any of them.

use std::time::Instant;

use nbd_protocol::number::{Opt, Rep};

use nbd_protocol::HeaderStyle;
use nbd_protocol::negotiate::client::{ClientHandshakeError, ClientWants, Goal};
pub use nbd_protocol::negotiate::client::{ExportDescription, ListedExport};

use crate::connection::{self, Connection, OpenError, Options};
use crate::target::Target;

/// What a server says about one export.
#[derive(Clone, Debug)]
pub struct Description {
    /// Size, abilities, block sizes, name and text.
    pub export: ExportDescription,
    /// The ablest headers that the server agrees to.
    pub style: HeaderStyle,
    /// Names of its block-status contexts.
    pub contexts: Vec<String>,
}

/// Describes the export. A server that knows no INFO is asked by opening the export and closing it again.
pub fn describe(target: &Target, options: &Options) -> Result<Description, OpenError> {
    let mut wants = ClientWants::open(&target.export);
    wants.goal = Goal::Info;
    wants.style = options.headers;
    wants.list_contexts = true;
    let deadline = Instant::now() + options.connect_timeout;
    match connection::negotiate(target, wants, options, deadline) {
        Ok((_, outcome, _)) => {
            let Some(export) = outcome.export else {
                return Err(OpenError::Closed {
                    address: target.address.to_string(),
                });
            };
            Ok(Description {
                export,
                style: outcome.style,
                contexts: outcome.available_contexts,
            })
        }
        Err(OpenError::Closed { .. }) => opened(target, options),
        Err(OpenError::Handshake { source, .. }) if knows_no_info(&source) => {
            opened(target, options)
        }
        Err(error) => Err(error),
    }
}

/// Lists the server's exports; the target's own export name has no part in it.
pub fn list(target: &Target, options: &Options) -> Result<Vec<ListedExport>, OpenError> {
    let mut wants = ClientWants::open("");
    wants.goal = Goal::List;
    let deadline = Instant::now() + options.connect_timeout;
    let (_, outcome, _) = connection::negotiate(target, wants, options, deadline)?;
    Ok(outcome.exports)
}

fn opened(target: &Target, options: &Options) -> Result<Description, OpenError> {
    let connection = Connection::open(target, options.clone())?;
    let export = connection.export();
    Ok(Description {
        export: ExportDescription {
            size: export.size,
            flags: export.flags,
            minimum_block: export.minimum_block,
            preferred_block: export.preferred_block,
            maximum_payload: export.maximum_payload,
            block_sizes_given: export.block_sizes_given,
            name: export.name.clone(),
            description: export.description.clone(),
        },
        style: export.style,
        contexts: export
            .contexts
            .iter()
            .map(|context| context.name.clone())
            .collect(),
    })
}

fn knows_no_info(error: &ClientHandshakeError) -> bool {
    match error {
        ClientHandshakeError::TooOld(option) => *option == Opt::INFO,
        ClientHandshakeError::Refused { option, reply, .. } => {
            *option == Opt::INFO && *reply == Rep::ERR_UNSUP
        }
        _ => false,
    }
}
