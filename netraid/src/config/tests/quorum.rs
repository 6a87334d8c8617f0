//! The keys for a quorum.

use super::*;
use crate::mirror::node::{NodeId, NodeSet};
use crate::mirror::vote::Quorum;

#[test]
fn a_quorum_is_more_than_half_of_the_nodes_and_needs_the_embedded_engine() {
    let three = format!("{NODES}{}", node("s3", "10.0.0.3", "/dev/b", ""));
    let with = |line: &str| {
        let text = mirror("a", 0, &format!("{line}{three}"));
        text.replace("\"md\"", "\"embedded\"")
    };
    let read = |line: &str| {
        let config = read(&[("a.toml", &with(line))]).unwrap();
        let a = &config.mirrors[&Tag::new("a").unwrap()];
        a.settings("s1", &config.parameters).unwrap().quorum
    };
    let quorum = |need, fail| {
        Some(Quorum {
            need,
            nodes: 3,
            tie_breakers: NodeSet::NONE,
            fail,
        })
    };
    assert_eq!(read(""), None);
    assert_eq!(read("quorum = 'off'"), None);
    assert_eq!(read("quorum = 'majority'"), quorum(2, false));
    assert_eq!(
        read("quorum = 'all'\non-no-quorum = 'io-error'"),
        quorum(3, true)
    );
    assert_eq!(
        read("quorum = 2\non-no-quorum = 'suspend-io'"),
        quorum(2, false)
    );
    for (line, expected) in [
        (
            "quorum = 1",
            "4:10: quorum 1 is not more than half of 3 nodes: both halves could go on; write \"majority\", or 2 to 3",
        ),
        (
            "quorum = 4",
            "4:10: quorum 4 is more than the 3 nodes of this mirror; write \"majority\", or 2 to 3",
        ),
        (
            "quorum = 'most'",
            "4:10: quorum \"most\" is not known; write \"off\" or \"majority\" or \"all\" or a number of nodes",
        ),
    ] {
        assert_eq!(told(&with(line)), expected, "{line}");
    }
    assert_eq!(
        told(&with("quorum = 'majority'\nprotocol = 'A'")),
        "4:10: quorum needs to know who has all that was answered, which protocol A does not say; \
         write protocol = \"C\", for each node as well, or quorum = \"off\""
    );
    let md = mirror("a", 0, &format!("quorum = 'majority'{NODES}"));
    assert_eq!(
        told(&md),
        "4:10: quorum is not built for backend \"md\": the kernel can't hold answers back while the nodes vote; \
         write backend = \"embedded\", or quorum = \"off\""
    );
}

#[test]
fn a_tie_breaker_has_no_disk_comes_last_and_needs_a_quorum() {
    let with = |quorum: &str, last: &str| {
        let text = mirror("a", 0, &format!("{quorum}{NODES}{last}"));
        text.replace("\"md\"", "\"embedded\"")
    };
    let third = node("s3", "10.0.0.3", "none", "");
    let config = read(&[("a.toml", &with("quorum = 'majority'", &third))]).unwrap();
    let a = &config.mirrors[&Tag::new("a").unwrap()];
    let quorum = a
        .settings("s3", &config.parameters)
        .unwrap()
        .quorum
        .unwrap();
    assert_eq!((quorum.need, quorum.nodes), (2, 3));
    assert_eq!(quorum.tie_breakers, NodeSet::of(NodeId::new(2).unwrap()));
    assert_eq!(a.nodes[2].disk, None);
    assert_eq!(a.nodes[2].disk_text(), "none");
    for (quorum, last, expected) in [
        (
            "",
            third.clone(),
            "a node without a disk only votes, and this mirror has no quorum; \
             write quorum = \"majority\" above the nodes, or give it a disk",
        ),
        (
            "quorum = 'majority'",
            format!("{third}{}", node("s4", "10.0.0.4", "none", "")),
            "2 of 4 nodes have no disk; more nodes have to have one than not",
        ),
        (
            "quorum = 'majority'",
            format!("{third}{}", node("s4", "10.0.0.4", "/dev/b", "")),
            "a node without a disk is not among the last ones; write it behind those that have one",
        ),
    ] {
        let told = told(&with(quorum, &last));
        assert!(told.ends_with(expected), "{told}");
    }
}
