//! Block-status contexts and the sessions that travel as one of them.

use super::*;

fn names(replies: &[OptionReply]) -> Vec<&str> {
    let (last, rest) = replies.split_last().unwrap();
    assert_eq!(*last, OptionReply::Ack);
    fn name(reply: &OptionReply) -> &str {
        match reply {
            OptionReply::MetaContext { name, .. } => name,
            other => panic!("{other:?}"),
        }
    }
    rest.iter().map(name).collect()
}

#[test]
fn list_meta_context_works_without_structured_replies_and_knows_wildcards() {
    let mut talk = Talk::new(ALL);
    let mut list = |queries: &[&str]| {
        let replies = talk.ask(ClientOption::ListMetaContext(meta("disk", queries)));
        names(&replies)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["base:allocation", "x-netraid:dirty"]);
    assert_eq!(list(&["base:"]), ["base:allocation"]);
    assert_eq!(list(&["x-netraid:"]), ["x-netraid:dirty"]);
    assert_eq!(
        list(&["x-netraid:dirty", "x-netraid:", "x-netraid:dirty"]),
        ["x-netraid:dirty"]
    );
    assert!(list(&["qemu:dirty-bitmap:x", "base", "", "nonsense"]).is_empty());
    talk.ask(ClientOption::ExtendedHeaders);
    let all = talk.ask(ClientOption::ListMetaContext(meta("disk", &[])));
    assert_eq!(
        names(&all),
        ["base:allocation", "x-netraid:blake3", "x-netraid:dirty"]
    );
    let unknown = ClientOption::ListMetaContext(meta("nothing", &[]));
    assert_eq!(talk.refused(unknown), Rep::ERR_UNKNOWN);
    assert!(
        talk.go("disk").contexts.is_empty(),
        "listing selects nothing"
    );
}

fn selected(negotiated: &Negotiated) -> Vec<(usize, &str)> {
    let contexts = &negotiated.contexts;
    let ids: std::collections::HashSet<u32> = contexts.iter().map(|context| context.id).collect();
    assert_eq!(ids.len(), contexts.len(), "ids differ");
    contexts
        .iter()
        .map(|context| (context.index, context.name.as_str()))
        .collect()
}

#[test]
fn set_meta_context_selects_whole_names_of_the_export_that_is_opened() {
    let set = |export: &str, queries: &[&str]| ClientOption::SetMetaContext(meta(export, queries));
    let mut talk = Talk::new(ALL);
    talk.ask(ClientOption::StructuredReply);
    let replies = talk.ask(set(
        "disk",
        &["x-netraid:dirty", "base:allocation", "base:"],
    ));
    assert_eq!(names(&replies), ["base:allocation", "x-netraid:dirty"]);
    let negotiated = talk.go("disk");
    assert_eq!(
        selected(&negotiated),
        [(0, "base:allocation"), (2, "x-netraid:dirty")]
    );
    for (context, reply) in negotiated.contexts.iter().zip(&replies) {
        let name = context.name.clone();
        assert_eq!(
            *reply,
            OptionReply::MetaContext {
                id: context.id,
                name
            }
        );
    }
    // 64-bit statuses need extended headers.
    let wide = ["x-netraid:blake3"];
    let mut talk = Talk::new(ALL);
    talk.ask(ClientOption::StructuredReply);
    assert!(names(&talk.ask(set("disk", &wide))).is_empty());
    talk.ask(ClientOption::ExtendedHeaders);
    assert_eq!(names(&talk.ask(set("disk", &wide))), wide);
    assert_eq!(selected(&talk.go("disk")), [(1, wide[0])]);
}

#[test]
fn a_selection_ends_with_the_next_one_even_if_that_fails() {
    let set = |export: &str, queries: &[&str]| ClientOption::SetMetaContext(meta(export, queries));
    let begin = || {
        let mut talk = Talk::new(ALL);
        talk.ask(ClientOption::StructuredReply);
        talk.ask(set("disk", &["base:allocation"]));
        talk
    };
    assert_eq!(begin().go("disk").contexts.len(), 1);
    assert!(
        begin().go("").contexts.is_empty(),
        "GO names another export"
    );
    let mut talk = begin();
    assert_eq!(talk.refused(set("nothing", &[])), Rep::ERR_UNKNOWN);
    assert!(talk.go("disk").contexts.is_empty());
    let mut talk = begin();
    let data = vec![0].into();
    let broken = ClientOption::Unknown {
        option: Opt::SET_META_CONTEXT,
        data,
    };
    assert_eq!(talk.refused(broken), Rep::ERR_INVALID);
    assert!(talk.go("disk").contexts.is_empty());
    let mut talk = begin();
    talk.ask(set("disk", &[]));
    assert!(talk.go("disk").contexts.is_empty());
}

#[test]
fn too_many_queries_are_too_big() {
    let mut data = vec![0; 4];
    data.extend(257u32.to_be_bytes());
    data.extend(vec![0; 4 * 257]);
    for option in [Opt::LIST_META_CONTEXT, Opt::SET_META_CONTEXT] {
        let data = data.clone().into();
        let reply = Talk::new(ALL).refused(ClientOption::Unknown { option, data });
        assert_eq!(reply, Rep::ERR_TOO_BIG);
    }
}

#[test]
fn a_session_is_echoed_and_holds_for_the_export_that_it_was_presented_for() {
    let name = SESSION.to_string();
    let present = |export: &str| ClientOption::ListMetaContext(meta(export, &[&name]));
    let mut talk = Talk::new(ALL);
    assert_eq!(names(&talk.ask(present("disk"))), [name.as_str()]);
    assert_eq!(talk.go("disk").session, Some(SESSION));

    let mut talk = Talk::new(ALL);
    talk.ask(present("other"));
    assert_eq!(
        talk.go("disk").session,
        None,
        "presented for another export"
    );

    let mut talk = Talk::new(ALL);
    talk.ask(present("disk"));
    let (progress, _) = talk.send(&ClientOption::ExportName("disk".into()));
    let Ok(Progress::Transmission(negotiated)) = progress else {
        panic!("{progress:?}")
    };
    assert_eq!(negotiated.session, Some(SESSION));
}

#[test]
fn a_fenced_session_is_refused_with_a_reason_and_no_part_of_an_answer() {
    let mut talk = Talk::new(ALL);
    let (fresh, stale) = (SESSION.to_string(), STALE.to_string());
    let queries = [fresh.as_str(), stale.as_str()];
    let both = ClientOption::ListMetaContext(meta("disk", &queries));
    assert_eq!(talk.refused(both), Rep::ERR_POLICY);
    assert_eq!(talk.go("disk").session, None);
}

#[test]
fn a_session_in_set_meta_context_selects_and_presents_nothing() {
    let mut talk = Talk::new(ALL);
    talk.ask(ClientOption::StructuredReply);
    let set = ClientOption::SetMetaContext(meta("disk", &[&SESSION.to_string()]));
    assert!(names(&talk.ask(set)).is_empty());
    let negotiated = talk.go("disk");
    assert!(negotiated.session.is_none() && negotiated.contexts.is_empty());
}
