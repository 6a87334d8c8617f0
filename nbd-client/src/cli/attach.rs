//! `nbd-client attach`: makes an export a block device of the kernel.

use std::io::Write;

use nbd_client::Target;
use nbd_client::kernel::{self, AttachError, Attached, Tree, Unfit};
use nbd_protocol::session::Session;
use serde::Serialize;

use super::arguments::{self, Attach};
use super::devices::{failed, open_driver};
use super::exit::Exit;
use super::watch;

/// One line of JSON.
#[derive(Serialize)]
pub(super) struct Line<'a, E: Serialize> {
    pub(super) schema: &'static str,
    pub(super) device: &'a str,
    #[serde(flatten)]
    pub(super) event: E,
}

#[derive(Serialize)]
#[serde(tag = "event", rename = "attached")]
struct AttachedLine<'a> {
    uri: String,
    size: u64,
    block_size: u32,
    read_only: bool,
    connections: usize,
    timeout_ms: u128,
    dead_timeout_ms: u128,
    identifier: &'a str,
    session: Option<SessionLine>,
}

/// A session in JSON.
#[derive(Serialize)]
pub(super) struct SessionLine {
    client: String,
    generation: u64,
}

impl SessionLine {
    pub(super) fn new(session: &Session) -> SessionLine {
        // The only spelling of a session is `x-netraid:session:UUID:GENERATION`.
        let text = session.to_string();
        let client = text.rsplit(':').nth(1).unwrap_or_default().to_owned();
        SessionLine {
            client,
            generation: session.generation,
        }
    }
}

pub(super) const SCHEMA: &str = "nbd-client.attach/1";

pub(crate) fn run(arguments: &Attach) -> Result<(), Exit> {
    let target = arguments::target(&arguments.target)?;
    let mut driver = open_driver()?;
    let tree = Tree::system();
    // Before the device, so that nothing is missed, and before the first thread, so that all are alike.
    let prepared = match arguments.watch {
        true => Some(watch::prepare(&driver)?),
        false => None,
    };
    let attached = kernel::attach(&mut driver, &tree, &target, arguments.options())
        .map_err(|error| exit(&target, &error))?;
    let said = announce(arguments.json, &target, &attached);
    let Some(prepared) = prepared else {
        return said;
    };
    // A closed standard output is no reason to stop watching.
    let _ = said;
    watch::run(arguments, &target, &tree, driver, attached, prepared)
}

fn announce(json: bool, target: &Target, attached: &Attached) -> Result<(), Exit> {
    let device = &kernel::path(attached.index);
    let plan = &attached.plan;
    let mut out = std::io::stdout().lock();
    if json {
        let line = Line {
            schema: SCHEMA,
            device,
            event: AttachedLine {
                uri: target.to_string(),
                size: plan.size,
                block_size: plan.block_size,
                read_only: plan.read_only(),
                connections: plan.connections,
                timeout_ms: attached.options.timeout.as_millis(),
                dead_timeout_ms: attached.options.dead_timeout.as_millis(),
                identifier: &attached.identifier,
                session: plan.fenced.then(|| SessionLine::new(&attached.session)),
            },
        };
        serde_json::to_writer(&mut out, &line).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{device}")?;
    }
    out.flush()?;
    Ok(())
}

fn exit(target: &Target, error: &AttachError) -> Exit {
    match error {
        AttachError::Open(error) => Exit::open(target, error),
        AttachError::Driver(error) => failed(error),
        AttachError::Busy { index, .. } => Exit::refused(error).hint(format!(
            "choose another device, let the kernel choose (--next), or `nbd-client detach {}`",
            kernel::path(*index)
        )),
        AttachError::Unfit {
            source: Unfit::BlockSize(_),
            ..
        }
        | AttachError::Identifier => Exit::usage(error),
        AttachError::Unfit { source, .. } => {
            let exit = Exit::refused(error);
            match source {
                Unfit::OneConnectionOnly { .. } => exit.hint("leave out --connections"),
                Unfit::Uneven { size, .. } if size.is_multiple_of(512) => {
                    exit.hint("choose a smaller --block-size")
                }
                _ => exit,
            }
        }
        AttachError::Differs { .. } | AttachError::Identity(_) => Exit::refused(error),
        AttachError::Surplus { .. } | AttachError::Limit { .. } => Exit::failed(error),
    }
}
