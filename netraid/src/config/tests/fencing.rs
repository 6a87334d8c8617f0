//! The key for fencing.

use super::*;
use crate::mirror::fencing::Fencing;

const PROGRAM: &str = "[handlers]\nfence-peer = 'fence'\nunfence-peer = 'unfence'\n";

#[test]
fn fencing_needs_a_program_and_what_it_can_not_do_is_refused_by_name() {
    let with = |line: &str, backend: &str, program: &str| {
        let text = mirror("a", 0, &format!("{line}{NODES}{program}"));
        text.replace("\"md\"", &format!("\"{backend}\""))
    };
    for (line, backend, expected) in [
        ("", "md", Fencing::DontCare),
        ("fencing = 'dont-care'", "md", Fencing::DontCare),
        ("fencing = 'resource-only'", "md", Fencing::ResourceOnly),
        (
            "fencing = 'resource-only'",
            "embedded",
            Fencing::ResourceOnly,
        ),
        (
            "fencing = 'resource-and-stonith'",
            "embedded",
            Fencing::ResourceAndStonith,
        ),
    ] {
        let config = read(&[("a.toml", &with(line, backend, PROGRAM))]).unwrap();
        let a = &config.mirrors[&Tag::new("a").unwrap()];
        let settings = a.settings("s1", &config.parameters).unwrap();
        assert_eq!(settings.fencing, expected, "{line}");
        assert_eq!(a.handlers.fence_peer.as_deref(), Some("fence"));
        assert_eq!(a.handlers.unfence_peer.as_deref(), Some("unfence"));
    }
    for (line, backend, program, expected) in [
        (
            "fencing = 'resource-only'",
            "embedded",
            "",
            "fencing needs a program that fences; write handlers.fence-peer, a line for the shell, or \"dont-care\"",
        ),
        (
            "fencing = 'resource-and-stonith'",
            "md",
            PROGRAM,
            "the kernel can't hold answers back meanwhile; write backend = \"embedded\", or \"resource-only\"",
        ),
        (
            "quorum = 'all'\nfencing = 'resource-only'",
            "embedded",
            PROGRAM,
            "fencing adds nothing; write quorum = \"off\", or \"dont-care\"",
        ),
        (
            "protocol = 'A'\non-congestion = 'pull-ahead'\nfencing = 'resource-and-stonith'",
            "embedded",
            PROGRAM,
            "each congestion that is pulled ahead of; write on-congestion = \"block\", or \"resource-only\"",
        ),
        (
            "fencing = 'stonith'",
            "embedded",
            PROGRAM,
            "\"dont-care\" or \"resource-only\" or \"resource-and-stonith\"",
        ),
    ] {
        let text = with(line, backend, program);
        let problems = read(&[("a.toml", &text)]).unwrap_err().to_string();
        assert!(problems.contains(expected), "{line}: {problems}");
    }
}
