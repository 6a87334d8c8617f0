//! Every number has its line, and the format is what collectors read.

use super::*;

fn mirrors(mirror: serde_json::Value) -> Mirrors {
    serde_json::from_value(serde_json::json!({
        "schema": super::super::document::MIRRORS, "node": "server1", "version": "1.2.3", "mirrors": [mirror],
    }))
    .unwrap()
}

fn mirror() -> serde_json::Value {
    let node = |name: &str, own: bool, status: &str| {
        serde_json::json!({
            "name": name, "slot": 0, "own": own, "member": true, "reachable": false, "status": status,
            "disk": "UpToDate", "device": "/dev/sdb", "address": "", "percent": null, "behind_bytes": 17,
            "left_behind": false, "why": "", "waits_for": null, "command": null, "last_resync": null, "failure": null,
        })
    };
    serde_json::json!({
        "tag": "da\"ta\\", "backend": "embedded", "protocol": "C", "service": "in", "source": "server1",
        "previous_source": null, "places": [], "size": 1_073_741_824_u64, "chunk": 65536, "dirty_bytes": 65536,
        "generation": "", "quorum": { "present": 1, "need": 2, "nodes": 3, "requests": "suspended" },
        "flags": { "last_owner": true, "source": null, "data_corrupt": false }, "refusal": null,
        "nodes": [node("server1", true, "Source"), node("server2", false, "Split Brain")],
        "resync": null, "verify": null, "problems": ["one", "two"], "notes": [],
    })
}

#[test]
fn each_number_has_its_line() {
    let text = text(&mirrors(mirror()));
    let expected = r#"# HELP netraid_info The daemon, 1.
# TYPE netraid_info gauge
netraid_info{node="server1",version="1.2.3"} 1
# HELP netraid_mirror_in_service Whether applications can use the mirror on this node.
# TYPE netraid_mirror_in_service gauge
netraid_mirror_in_service{mirror="da\"ta\\"} 1
# HELP netraid_mirror_size_bytes Size of the mirror.
# TYPE netraid_mirror_size_bytes gauge
netraid_mirror_size_bytes{mirror="da\"ta\\"} 1073741824
"#;
    assert!(text.starts_with(expected), "{text}");
    for line in [
        r#"netraid_mirror_dirty_bytes{mirror="da\"ta\\"} 65536"#,
        r#"netraid_mirror_problems{mirror="da\"ta\\"} 2"#,
        r#"netraid_mirror_requests_held{mirror="da\"ta\\"} 1"#,
        r#"netraid_quorum_nodes_present{mirror="da\"ta\\"} 1"#,
        r#"netraid_quorum_nodes_needed{mirror="da\"ta\\"} 2"#,
        r#"netraid_node_reachable{mirror="da\"ta\\",node="server2"} 0"#,
        r#"netraid_node_in_sync{mirror="da\"ta\\",node="server1"} 1"#,
        r#"netraid_node_in_sync{mirror="da\"ta\\",node="server2"} 0"#,
        r#"netraid_node_split_brain{mirror="da\"ta\\",node="server2"} 1"#,
        r#"netraid_node_behind_bytes{mirror="da\"ta\\",node="server2"} 17"#,
        r#"netraid_node_status_info{mirror="da\"ta\\",node="server2",status="Split Brain",disk="UpToDate"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // What is not there has no line, rather than a number that means something.
    for absent in [
        "netraid_resync",
        "netraid_verify",
        "node_reachable{mirror=\"da\\\"ta\\\\\",node=\"server1\"",
    ] {
        assert!(!text.contains(absent), "{absent}\n{text}");
    }
}

#[test]
fn a_resync_and_a_verify_are_told() {
    let mut with = mirror();
    with["resync"] = serde_json::json!({
        "copied": 1, "left": 2, "percent": 33.3, "speed": 3, "time_left_ms": null, "paused": true,
        "waits_for": null, "limited_by": null, "why": null, "boosted": false,
    });
    with["verify"] = serde_json::json!({
        "number": 1, "state": "done", "why": null, "targets": [], "start": 0, "stop": 9, "position": 9, "checked": 9,
        "percent": 100.0, "speed": 1, "rate": 0, "differing": 4096, "differences": [], "more_differences": false,
        "repair": false, "began_ms": 1500, "ended_ms": 2000, "elapsed_ms": 500,
    });
    with["quorum"] = serde_json::Value::Null;
    let text = text(&mirrors(with));
    for line in [
        "netraid_resync_copied_bytes{mirror=\"da\\\"ta\\\\\"} 1",
        "netraid_resync_left_bytes{mirror=\"da\\\"ta\\\\\"} 2",
        "netraid_resync_speed_bytes_per_second{mirror=\"da\\\"ta\\\\\"} 3",
        "netraid_resync_paused{mirror=\"da\\\"ta\\\\\"} 1",
        "netraid_verify_running{mirror=\"da\\\"ta\\\\\"} 0",
        "netraid_verify_completed{mirror=\"da\\\"ta\\\\\"} 1",
        "netraid_verify_checked_bytes{mirror=\"da\\\"ta\\\\\"} 9",
        "netraid_verify_differing_bytes{mirror=\"da\\\"ta\\\\\"} 4096",
        "netraid_verify_duration_seconds{mirror=\"da\\\"ta\\\\\"} 0.5",
        "netraid_verify_ended_timestamp_seconds{mirror=\"da\\\"ta\\\\\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("quorum"), "{text}");
}
