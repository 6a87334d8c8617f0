//! Protocols of mirrors and of single targets.

use super::*;
use crate::raid1::engine::OnCongestion;

#[test]
fn targets_may_have_protocols_of_their_own() {
    let text = |backend: &str| {
        format!(
            "tag = \"a\"\nnumber = 0\nbackend = \"{backend}\"\nprotocol = \"A\"\n\
             [[nodes]]\nname = \"s1\"\naddress = \"10.0.0.1\"\ndisk = \"/dev/sdb1\"\n\
             [[nodes]]\nname = \"s2\"\naddress = \"10.0.0.2\"\ndisk = \"/dev/sdb1\"\nprotocol = \"B\"\n\
             [[nodes]]\nname = \"s3\"\naddress = \"10.0.0.3\"\ndisk = \"/dev/sdb1\"\n"
        )
    };
    let config = read(&[("a.toml", &text("embedded"))]).unwrap();
    let a = &config.mirrors[&Tag::new("a").unwrap()];
    assert_eq!(a.streams().nodes, ["s1", "s3"]);
    assert_eq!(a.streams().send_buffer, None);
    let problem = read(&[("a.toml", &text("md"))]).unwrap_err().to_string();
    assert!(
        problem.contains("13:12: a node can't have a protocol of its own"),
        "{problem}"
    );
}

#[test]
fn a_congested_target_is_waited_for_given_up_or_left_behind() {
    let with = |lines: &str| {
        let text = format!(
            "tag = \"a\"\nnumber = 0\nbackend = \"embedded\"\nprotocol = \"A\"\n{lines}{NODES}"
        );
        read(&[("a.toml", &text)])
    };
    let streams = |lines: &str| with(lines).unwrap().mirrors[&Tag::new("a").unwrap()].streams();
    assert_eq!(streams("").on_congestion, OnCongestion::Block);
    assert_eq!(
        streams("on-congestion = 'block'").on_congestion,
        OnCongestion::Block
    );
    let given_up = streams("on-congestion = 'disconnect'\nsndbuf-size = 1048576");
    assert_eq!(given_up.on_congestion, OnCongestion::Disconnect(1 << 20));
    let earlier = streams("on-congestion = 'disconnect'\ncongestion-fill = 65536");
    assert_eq!(earlier.on_congestion, OnCongestion::Disconnect(64 << 10));
    let behind = streams("on-congestion = 'pull-ahead'\ncongestion-fill = 65536");
    assert_eq!(behind.on_congestion, OnCongestion::PullAhead(64 << 10));
    for (lines, words) in [
        (
            "congestion-fill = 65536",
            "congestion-fill has no meaning while writes wait",
        ),
        (
            "on-congestion = 'disconnect'\nsndbuf-size = 65536\ncongestion-fill = 65537",
            "a.toml:7:19: congestion-fill is more than the send buffer of 65536 bytes",
        ),
    ] {
        let problem = with(lines).unwrap_err().to_string();
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn a_mirror_behaves_as_it_and_the_parameters_say() {
    let text = mirror("a", 0, &format!("protocol = \"A\"\n{NODES}"));
    let parameters = "LKDR_CHUNK_SIZE=64\nLKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=5\nLKDR_NO_FULL_SYNC=1\n\
        LKDR_CONNECT_NBD_DURING_RESTORE=False\nLKDR_WAIT_TO_RESYNC=False\n";
    let config = read(&[("a.toml", &text), ("LK", parameters)]).unwrap();
    let a = &config.mirrors[&Tag::new("a").unwrap()];
    assert_eq!(a.chunk_bytes, 64 << 10);
    let settings = a.settings("s2", &config.parameters).unwrap();
    assert_eq!(settings.own.slot(), 1);
    assert_eq!(settings.rules.protocol, decision::Protocol::Async);
    assert_eq!(settings.wait, Wait::Seconds(5));
    assert!(!settings.connect_during_restore && settings.no_full_sync);
    assert!(!settings.wait_to_resync && settings.bitmap);
    assert_eq!(a.settings("s3", &config.parameters), None);
    assert_eq!(a.slot_of("s1").unwrap().slot(), 0);
    assert_eq!(a.names().nodes, ["s1", "s2"]);
    let none = mirror("a", 0, &format!("bitmap = \"none\"\nchunk = 1024\n{NODES}"));
    let config = read(&[("a.toml", &none), ("LK", parameters)]).unwrap();
    let a = &config.mirrors[&Tag::new("a").unwrap()];
    assert_eq!(a.chunk_bytes, 1 << 20);
    assert!(!a.settings("s1", &config.parameters).unwrap().bitmap);
}
