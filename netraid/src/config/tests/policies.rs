//! The keys for split brains.

use super::*;

#[test]
fn policies_for_split_brains_are_those_of_drbd_but_not_the_violent_ones() {
    let with = |line: &str| mirror("a", 0, &format!("{line}{NODES}"));
    let keys = "after-sb-0pri = 'discard-node-s2'\nafter-sb-1pri = 'consensus'\nalways-asbp = 'yes'\n\
        [handlers]\nsplit-brain = 'tell $DRBD_PEER'\n";
    let config = read(&[("a.toml", &with(keys))]).unwrap();
    let a = &config.mirrors[&Tag::new("a").unwrap()];
    let text = a
        .settings("s1", &config.parameters)
        .unwrap()
        .rules
        .policies
        .to_string();
    assert_eq!(
        text,
        "after-sb-0pri=discard-node-1 after-sb-1pri=consensus after-sb-2pri=disconnect rr-conflict=disconnect \
         always-asbp=yes"
    );
    assert_eq!(a.handlers.split_brain.as_deref(), Some("tell $DRBD_PEER"));
    let none = read(&[("a.toml", &with(""))]).unwrap();
    let a = &none.mirrors[&Tag::new("a").unwrap()];
    assert_eq!(a.policies.to_string(), "");
    for (line, expected) in [
        (
            "after-sb-1pri = 'violently-as0p'",
            "4:17: after-sb-1pri \"violently-as0p\" would change the data below an application that uses it; \
             write \"call-pri-lost-after-sb\" with a program handlers.pri-lost-after-sb that ends the application",
        ),
        (
            "after-sb-0pri = 'discard-local'",
            "4:17: after-sb-0pri \"discard-local\" is another node on each node; \
             write \"discard-node-NAME\", the same on all nodes",
        ),
        (
            "after-sb-0pri = 'discard-node-s3'",
            "4:17: after-sb-0pri \"discard-node-s3\" names no node of this mirror; \
             write the name of one of its [[nodes]]",
        ),
        (
            "rr-conflict = 'retry-connect'",
            "4:15: rr-conflict \"retry-connect\" is what is done in any case: netraidd never ceases to try; \
             write \"disconnect\"",
        ),
        (
            "[handlers]\nbefore-resync-target = 'x'\n",
            "5:1: unknown key \"before-resync-target\"; known here are initial-split-brain, split-brain, pri-lost-after-sb, \
             pri-lost, local-io-error, quorum-lost, fence-peer, unfence-peer",
        ),
    ] {
        assert_eq!(told(&with(line)), expected, "{line}");
    }
}
