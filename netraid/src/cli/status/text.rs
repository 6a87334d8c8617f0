//! The page of `netraid status`.

use std::time::Duration;

use crate::api::document::{Mirror, Mirrors, Node, Resync};
use crate::cli::show::{duration, plain, size};
use crate::mirror::word::Word;

/// All mirrors.
pub(in crate::cli) fn page(mirrors: &Mirrors) -> String {
    if mirrors.mirrors.is_empty() {
        return format!("no mirror is configured on {}\n", plain(&mirrors.node));
    }
    let pages: Vec<String> = mirrors
        .mirrors
        .iter()
        .map(|mirror| self::mirror(mirror, &mirrors.node))
        .collect();
    pages.join("\n")
}

fn mirror(mirror: &Mirror, here: &str) -> String {
    let mut page = format!(
        "{}: {}\n  {} backend, protocol {}{}\n",
        plain(&mirror.tag),
        plain(&service(mirror, here)),
        plain(&mirror.backend),
        plain(&mirror.protocol),
        mirror
            .size
            .map_or_else(String::new, |bytes| format!(", {}", size(bytes)))
    );
    if !mirror.places.is_empty() {
        page += &format!("  at {}\n", plain(&mirror.places.join(" ")));
    }
    if let Some(dirty) = mirror.dirty_bytes.filter(|dirty| *dirty > 0) {
        page += &format!("  {} marked as changed\n", size(dirty));
    }
    if let Some(quorum) = &mirror.quorum {
        let (present, nodes, need) = (quorum.present, quorum.nodes, quorum.need);
        page += &format!("  quorum: {present} of {nodes} nodes are there, {need} are needed\n");
    }
    for node in mirror.fencing.iter().flat_map(|fencing| &fencing.nodes) {
        let answer = node.answer.as_deref().unwrap_or("no answer yet");
        page += &format!(
            "  fencing: {} is {}: {}\n",
            plain(&node.name),
            plain(&node.state),
            plain(answer)
        );
        if let Some(failure) = &node.failure {
            page += &format!("    fence-peer: {}\n", plain(failure));
        }
    }
    page += &table(&mirror.nodes);
    if let Some(resync) = &mirror.resync {
        page += &format!("  resync: {}\n", progress(resync));
        if let Some(why) = &resync.why {
            page += &format!("    {}\n", plain(why));
        }
    }
    for node in mirror.nodes.iter().filter(|node| needs_words(node)) {
        page += &format!("  {}: {}\n", plain(&node.name), plain(&node.why));
        if let Some(command) = &node.command {
            page += &format!("    {}\n", plain(command));
        }
    }
    if let Some(refusal) = mirror.refusal.as_ref().filter(|_| mirror.service == "out") {
        page += &format!("  may not go into service here: {}\n", plain(&refusal.why));
    }
    for problem in &mirror.problems {
        page += &format!("  problem: {}\n", plain(problem));
    }
    for note in &mirror.notes {
        page += &format!("  note: {}\n", plain(note));
    }
    page
}

fn service(mirror: &Mirror, here: &str) -> String {
    match (mirror.service.as_str(), &mirror.source) {
        ("in", _) => format!("in service on {here}, this node"),
        ("starting", _) => format!("being started on {here}, this node"),
        ("stopping", _) => format!("being stopped on {here}, this node"),
        (_, Some(source)) => format!("in service on {source}"),
        (_, None) => "not in service anywhere that can be seen".into(),
    }
}

fn table(nodes: &[Node]) -> String {
    let status = |node: &Node| match (node.member, node.percent) {
        (false, _) => "-".to_owned(),
        (true, Some(percent)) => format!("{} {percent}%", node.status),
        (true, None) => node.status.clone(),
    };
    let rows: Vec<[String; 4]> = nodes
        .iter()
        .map(|node| {
            let place = match node.own {
                true => "this node".to_owned(),
                false => node.address.clone(),
            };
            [node.name.clone(), status(node), node.disk.clone(), place].map(|cell| plain(&cell))
        })
        .collect();
    let head = ["NODE", "STATUS", "DATA", "ADDRESS"].map(str::to_owned);
    let wide = |column: usize| {
        let cells = std::iter::once(&head).chain(&rows).map(|row| &row[column]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let (name, status, disk) = (wide(0), wide(1), wide(2));
    std::iter::once(&head)
        .chain(&rows)
        .map(|row| {
            format!(
                "  {:name$}  {:status$}  {:disk$}  {}\n",
                row[0], row[1], row[2], row[3]
            )
        })
        .collect()
}

/// Whether a node is in a state that a person wants explained.
fn needs_words(node: &Node) -> bool {
    let fine = [Word::Source, Word::Target, Word::Resyncing];
    node.member && !fine.iter().any(|word| node.status == word.text())
}

/// How far and how fast, in one line.
pub(in crate::cli) fn progress(resync: &Resync) -> String {
    let left = resync.time_left_ms.map_or_else(String::new, |left| {
        format!(", {} left", duration(Duration::from_millis(left)))
    });
    format!(
        "{:.0}%, {} copied, {} to go, {}/s{left}",
        resync.percent,
        size(resync.copied),
        size(resync.left),
        size(resync.speed)
    )
}
