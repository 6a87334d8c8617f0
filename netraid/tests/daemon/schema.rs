//! What the programs really print is what the committed schemas say. The few words of JSON Schema that our schemas use are
//! checked here; another word is a failure, and so is a field that the schema does not know.

use std::fs;
use std::path::Path;
use std::process::Command;

use netraid::api::document::Order;
use serde_json::Value;

use crate::cable::Cable;
use crate::cluster::Cluster;
use crate::node::Node;
use crate::resyncs::in_the_middle;

/// Words that say nothing of what is allowed, or what is checked in any case.
const WORDS: [&str; 7] = [
    "$schema",
    "$defs",
    "additionalProperties",
    "title",
    "description",
    "default",
    "format",
];

pub struct Schema(Value);

impl Schema {
    pub fn committed(file: &str) -> Schema {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
        let text = fs::read_to_string(folder.join(file)).unwrap();
        Schema(serde_json::from_str(&text).unwrap())
    }

    pub fn check(&self, value: &Value) {
        if let Err(why) = self.fits(&self.0, value, "document") {
            panic!("{why}\n{value:#}");
        }
    }

    fn fits(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let Some(schema) = schema.as_object() else {
            return Ok(());
        };
        for (word, wanted) in schema {
            let fits = match word.as_str() {
                "$ref" => {
                    let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                    let part = self.0.pointer(pointer).expect("the part is there");
                    self.fits(part, value, at)?;
                    true
                }
                "type" => match wanted.as_array() {
                    Some(types) => types.iter().any(|one| is(one, value)),
                    None => is(wanted, value),
                },
                "enum" => wanted.as_array().unwrap().contains(value),
                "const" => wanted == value,
                "minimum" => value
                    .as_f64()
                    .is_none_or(|it| it >= wanted.as_f64().unwrap()),
                "maximum" => value
                    .as_f64()
                    .is_none_or(|it| it <= wanted.as_f64().unwrap()),
                "minItems" | "maxItems" => {
                    let count = value.as_array().map(|items| items.len() as u64);
                    let wanted = wanted.as_u64().unwrap();
                    count.is_none_or(|count| match word.as_str() {
                        "minItems" => count >= wanted,
                        _ => count <= wanted,
                    })
                }
                "anyOf" | "oneOf" => {
                    let all = wanted.as_array().unwrap();
                    all.iter().any(|one| self.fits(one, value, at).is_ok())
                }
                "required" => wanted.as_array().unwrap().iter().all(|name| {
                    let name = name.as_str().unwrap();
                    value
                        .as_object()
                        .is_none_or(|fields| fields.contains_key(name))
                }),
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.fits(wanted, item, &format!("{at}[{index}]"))?;
                    }
                    true
                }
                "properties" => {
                    for (name, field) in value.as_object().into_iter().flatten() {
                        let part = wanted.get(name);
                        let part = part.ok_or_else(|| format!("{at}.{name} is not known"))?;
                        self.fits(part, field, &format!("{at}.{name}"))?;
                    }
                    true
                }
                word if WORDS.contains(&word) => true,
                word => panic!("this test does not know {word:?} at {at}"),
            };
            if !fits {
                return Err(format!("{at} is {value}, and {word} is {wanted}"));
            }
        }
        Ok(())
    }
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

/// What `netraid WORDS` prints on a node.
fn printed(node: &Node, words: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args(words.split(' '))
        .env("NETRAID_RUN_DIR", node.run_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn documents_fit(node: &Node) {
    let json = |words| serde_json::from_str::<Value>(&printed(node, words)).unwrap();
    Schema::committed("netraid.mirrors-1.json").check(&json("status --json"));
    Schema::committed("netraid.events-1.json").check(&json("events --json"));
}

#[test]
fn what_status_and_events_print_is_what_the_schemas_say() {
    // A resync, and before that one which was decided.
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    documents_fit(server1);
    documents_fit(server2);
    // Unreachable, refused, and told why.
    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    server2.refused(&Order::Restore, "");
    documents_fit(server1);
    documents_fit(server2);
    let orders = Schema::committed("netraid.order-1.json");
    for order in [
        Order::Restore,
        Order::Tentative,
        Order::Pause {
            targets: vec!["server2".into()],
        },
    ] {
        orders.check(&serde_json::to_value(&order).unwrap());
    }
    let answer = server1.rehearse(&Order::Remove);
    Schema::committed("netraid.answer-1.json").check(&serde_json::to_value(&answer).unwrap());
}

#[test]
fn a_mirror_with_no_disk_yet_is_described_as_well() {
    let cluster = Cluster::new(2);
    cluster.met();
    documents_fit(&cluster.nodes[0]);
}

#[test]
fn each_id_and_flag_of_a_mirror_is_explained() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server2.power_off();
    cluster.application(0).write(0..8);
    let text = printed(server1, "show-gi data");
    let generation = server1.status().generation;
    assert!(
        text.contains(&format!("current generation: {generation}\n")),
        "{text}"
    );
    assert!(text.contains("away, server2: "), "{text}");
    assert!(text.contains("was source: yes"), "{text}");
    assert!(text.contains("nodes: server1 and server2"), "{text}");
}

#[test]
fn what_collects_metrics_gets_them() {
    let cluster = Cluster::new(2).mirrored();
    let server1 = &cluster.nodes[0];
    let (status, body) = server1.client().get("/metrics").unwrap();
    assert_eq!(status, 200);
    let text = String::from_utf8(body.to_vec()).unwrap();
    let mut named = "";
    for line in text.lines() {
        // As the format wants it: what a name means comes before its values, once.
        if let Some(rest) = line.strip_prefix("# ") {
            named = rest.split(' ').nth(1).unwrap();
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap();
        assert_eq!(name, named, "{text}");
        let (_, value) = rest.rsplit_once("} ").unwrap();
        value.parse::<f64>().unwrap();
    }
    for line in [
        "netraid_mirror_in_service{mirror=\"data\"} 1",
        "netraid_mirror_problems{mirror=\"data\"} 0",
        "netraid_node_in_sync{mirror=\"data\",node=\"server2\"} 1",
        "netraid_node_reachable{mirror=\"data\",node=\"server2\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
