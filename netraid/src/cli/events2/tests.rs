//! The lines between two looks say all that is different, and nothing else.

use super::*;

fn object(kind: &'static str, name: &str, fields: &[(&'static str, &str)]) -> Object {
    let fields = fields
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Object {
        kind,
        key: vec![("name", name.into())],
        fields: fields.collect(),
    }
}

#[test]
fn only_what_is_different_is_said_and_what_goes_goes_from_the_inside() {
    let before = [
        object(
            "resource",
            "data",
            &[("role", "Primary"), ("may_promote", "no")],
        ),
        object("device", "data", &[("disk", "UpToDate")]),
        object("connection", "data", &[("connection", "Connected")]),
        object("peer-device", "data", &[("replication", "Established")]),
    ];
    assert!(changes(&before, &before).is_empty());
    let mut after = before[..2].to_vec();
    after[0].fields[0].1 = "Secondary".into();
    after.push(object("resource", "more", &[("role", "Primary")]));
    assert_eq!(
        changes(&before, &after),
        [
            "destroy peer-device name:data",
            "destroy connection name:data",
            "change resource name:data role:Secondary",
            "create resource name:more role:Primary",
        ]
    );
}

#[test]
fn handlers_are_called_and_respond_as_helpers() {
    let line = |event: &str, text: &str| {
        helper(&Event {
            number: 1,
            time_ms: 0,
            tag: Some("data".into()),
            event: event.into(),
            text: text.into(),
        })
    };
    assert_eq!(
        line("handler", "handlers.split-brain is called: mail root").unwrap(),
        "call helper name:data helper:split-brain"
    );
    assert_eq!(
        line(
            "handler-failed",
            "handlers.split-brain failed: exit status: 4"
        )
        .unwrap(),
        "response helper name:data helper:split-brain status:1024"
    );
    assert_eq!(
        line(
            "handler-failed",
            "handlers.split-brain failed: it did not end within 60 s"
        )
        .unwrap(),
        "response helper name:data helper:split-brain status:unknown"
    );
    assert_eq!(
        line("handler", "handlers.split-brain has ended").unwrap(),
        "response helper name:data helper:split-brain status:0"
    );
    assert_eq!(line("in-sync", "server2 is in sync"), None);
}
