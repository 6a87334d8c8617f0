//! `nbd-client map`: which parts of an export hold data, by one block-status context.

use std::io::{BufWriter, Write};

use nbd_client::{Client, ClientOptions, Options, Target, query};
use nbd_protocol::command::Extent;
use serde::Serialize;

use super::arguments::{self, Map};
use super::exit::Exit;

#[derive(Serialize)]
struct Run {
    offset: u64,
    length: u64,
    status: u64,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    meaning: Option<&'static str>,
}

pub(crate) fn run(arguments: &Map) -> Result<(), Exit> {
    super::block_on(async {
        let target = &arguments::target(&arguments.target)?;
        let connection = Options {
            contexts: vec![arguments.context.clone()],
            ..arguments.patience.options()
        };
        let options = ClientOptions {
            connection,
            ..ClientOptions::default()
        };
        let client = Client::connect(target.clone(), options)
            .await
            .map_err(|error| Exit::open(target, &error))?;
        let Some(context) = client.export().context(&arguments.context) else {
            return Err(unknown_context(arguments, target));
        };
        let mut out = BufWriter::new(std::io::stdout().lock());
        let json = arguments.json;
        if json {
            let value = |text: &str| serde_json::Value::from(text);
            write!(
                out,
                "{{\n  \"schema\": \"nbd-client.map/1\",\n  \"uri\": {},\n  \"context\": {},\n  \"size\": {},\n  \"extents\": [",
                value(&target.to_string()),
                value(&arguments.context),
                client.export().size
            )?;
        }
        let mut first = true;
        let mut print = |run: Run| -> Result<(), Exit> {
            if json {
                write!(out, "{}\n    ", if first { "" } else { "," })?;
                serde_json::to_writer(&mut out, &run).map_err(std::io::Error::from)?;
                first = false;
            } else {
                let Run {
                    offset,
                    length,
                    status,
                    meaning,
                } = run;
                writeln!(
                    out,
                    "{offset:>14} {length:>14} {status:>6}  {}",
                    meaning.unwrap_or_default()
                )?;
            }
            Ok(())
        };
        walk(
            &client,
            context,
            arguments.context == "base:allocation",
            &mut print,
        )
        .await?;
        if json {
            writeln!(out, "\n  ]\n}}")?;
        }
        out.flush()?;
        Ok(())
    })
}

/// Hands over all extents in order, adjacent ones of the same status as one.
async fn walk(
    client: &Client,
    context: usize,
    allocation: bool,
    print: &mut impl FnMut(Run) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let size = client.export().size;
    let mut position = 0;
    let mut open: Option<Run> = None;
    while position < size {
        let extents = client
            .block_status(position, size - position, context)
            .await
            .map_err(|error| Exit::request("can't ask for the block status", &error))?;
        for Extent { length, status } in extents {
            let length = length.min(size - position);
            if length == 0 {
                break;
            }
            match &mut open {
                Some(run) if run.status == status => run.length += length,
                _ => {
                    let meaning = allocation.then(|| meaning(status));
                    let next = Run {
                        offset: position,
                        length,
                        status,
                        meaning,
                    };
                    if let Some(run) = open.replace(next) {
                        print(run)?;
                    }
                }
            }
            position += length;
        }
    }
    open.map_or(Ok(()), print)
}

/// "base:allocation": bit 0 hole, bit 1 zero.
fn meaning(status: u64) -> &'static str {
    match status & 3 {
        0 => "data",
        1 => "hole",
        2 => "zero",
        _ => "hole,zero",
    }
}

fn unknown_context(arguments: &Map, target: &Target) -> Exit {
    let exit = Exit::usage(format!(
        "the export has no block-status context {:?}",
        arguments.context
    ));
    match query::describe(target, &arguments.patience.options()) {
        Ok(description) if description.contexts.is_empty() => exit.hint("the server offers none"),
        Ok(description) => exit.hint(format!("it has {:?}", description.contexts)),
        Err(_) => exit,
    }
}
