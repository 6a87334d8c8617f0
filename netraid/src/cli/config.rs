//! `netraid config`: whether what is configured can be meant.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::exit::{self, Exit};
use super::show;
use crate::config::{self, Config, MirrorConfig, NodeConfig, Problem, Problems};

/// Name and version of the document that `--json` prints.
const SCHEMA: &str = "netraid.config-check/1";

/// Looks at the configuration of this node: /etc/netraid and /etc/default/LifeKeeper.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    Check(Check),
}

/// Reads all of it, changes nothing, and tells all that is wrong: file, line, column, the reason and what to write instead.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: /etc/netraid/data.toml, the same on server1 and server2:\n  \
    tag = \"data\"\n  \
    number = 0\n  \
    backend = \"md\"\n\n  \
    [[nodes]]\n  \
    name = \"server1\"\n  \
    address = \"10.0.0.1\"\n  \
    disk = \"/dev/sdb1\"\n\n  \
    [[nodes]]\n  \
    name = \"server2\"\n  \
    address = \"10.0.0.2\"\n  \
    disk = \"/dev/sdb1\"\n\n  \
    $ netraid config check\n  \
    this is node server1, peers reach it on [::]:7800\n  \
    MIRROR  NUMBER  BACKEND   NODES AND THEIR PORTS\n  \
    data         0  md        server1:10001 server2:10001\n\n\
    A port that is not written is 10001 + number + 256 * i, with the smallest i whose port\n\
    is free by the configuration and by /etc/services. Nodes whose /etc/services differ need\n\
    it written. $NETRAID_DEFAULTS_FILE names another file than /etc/default/LifeKeeper.\n\
    Exit codes: 0 all is right, 2 something is wrong."
)]
struct Check {
    /// Folder of netraid.toml and one TAG.toml a mirror [default: $NETRAID_CONFIG_DIR, else /etc/netraid]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// Print the result as one JSON object, problems included; indented on a terminal
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let Order::Check(order) = &arguments.order;
    let folder = config::config_dir(order.config_dir.as_deref());
    let found = Config::load(&folder, &config::defaults_file());
    let mut out = io::stdout().lock();
    if order.json {
        let document = document(&found);
        let text = match io::stdout().is_terminal() {
            true => serde_json::to_string_pretty(&document),
            false => serde_json::to_string(&document),
        };
        writeln!(out, "{}", text.map_err(Exit::failed)?)?;
    } else if let Ok(config) = &found {
        write!(out, "{}", page(config))?;
    }
    out.flush()?;
    match found {
        Ok(_) => Ok(()),
        Err(_) if order.json => Err(Exit::silent(exit::USAGE)),
        Err(problems) => {
            for problem in problems.iter() {
                eprintln!("{}", show::plain(&problem.to_string()));
            }
            let all = match problems.len() {
                1 => "1 problem".to_owned(),
                count => format!("{count} problems"),
            };
            let folder = show::plain(&folder.to_string_lossy());
            Err(Exit::usage(format!(
                "{all} in the configuration of {folder}"
            )))
        }
    }
}

fn page(config: &Config) -> String {
    let own = &config.daemon.node;
    let listen: Vec<String> = config
        .daemon
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut page = format!(
        "this is node {own}, peers reach it on {}\n",
        listen.join(" ")
    );
    if config.mirrors.is_empty() {
        return page + "no mirror is configured\n";
    }
    let tags = config.mirrors.keys().map(|tag| tag.as_str().len());
    let wide = tags.max().unwrap_or(0).max("MIRROR".len());
    page += &format!(
        "{:wide$}  NUMBER  BACKEND   NODES AND THEIR PORTS\n",
        "MIRROR"
    );
    let mut notes = String::new();
    for (tag, mirror) in &config.mirrors {
        let nodes: Vec<String> = mirror.nodes.iter().map(called).collect();
        page += &format!(
            "{:wide$}  {:>6}  {:8}  {}\n",
            tag.as_str(),
            mirror.number,
            mirror.backend.as_str(),
            nodes.join(" ")
        );
        if mirror.slot_of(own.as_str()).is_none() {
            notes += &format!("note: this node, {own}, is none of those of mirror {tag}\n");
        }
        for node in &mirror.nodes {
            if let Some(reason) = &node.port_reason {
                notes += &format!(
                    "note: {} of mirror {tag}: {}\n",
                    called(node),
                    show::plain(reason)
                );
            }
        }
    }
    page + &notes
}

fn called(node: &NodeConfig) -> String {
    format!("{}:{}", node.name, node.port)
}

fn document(found: &Result<Config, Problems>) -> Value {
    match found {
        Ok(config) => json!({
            "schema": SCHEMA,
            "good": true,
            "node": config.daemon.node.as_str(),
            "listen": config.daemon.listen,
            "mirrors": config.mirrors.values().map(mirror).collect::<Vec<Value>>(),
            "problems": [],
        }),
        Err(problems) => json!({
            "schema": SCHEMA,
            "good": false,
            "mirrors": [],
            "problems": problems.iter().map(problem).collect::<Vec<Value>>(),
        }),
    }
}

fn mirror(mirror: &MirrorConfig) -> Value {
    let nodes = mirror.nodes.iter().map(|node| {
        json!({
            "name": node.name.as_str(),
            "priority": node.priority,
            "address": node.address.to_string(),
            "disk": node.disk_text(),
            "port": node.port,
            "port_reason": node.port_reason,
        })
    });
    json!({
        "tag": mirror.tag.as_str(),
        "number": mirror.number,
        "backend": mirror.backend.as_str(),
        "device": mirror.device.as_ref().map(|device| device.to_string_lossy()),
        "protocol": mirror.protocol.as_str(),
        "chunk_bytes": mirror.chunk_bytes,
        "bitmap": mirror.bitmap,
        "nodes": nodes.collect::<Vec<Value>>(),
    })
}

fn problem(problem: &Problem) -> Value {
    let position = problem.place.position;
    json!({
        "file": problem.place.file.to_string_lossy(),
        "line": position.map(|at| at.0),
        "column": position.map(|at| at.1),
        "what": problem.what,
        "instead": problem.instead,
    })
}
