//! How a connection ends, and what its requests are told.

use super::*;

#[test]
fn a_request_to_a_silent_server_times_out_and_so_do_all_others() {
    let after = Duration::from_millis(50);
    let options = Options {
        request_timeout: Some(after),
        ..Options::default()
    };
    let (connection, mut server) = pair(HeaderStyle::Structured, options);
    let started = Instant::now();
    let outcomes = [ask(&connection, READ), ask(&connection, Command::Flush)];
    for outcome in outcomes {
        let failure = only(outcome).unwrap_err();
        assert_eq!(failure.errno, TIMED_OUT, "{failure}");
        assert!(failure.why.contains("outcome unknown"), "{failure}");
    }
    assert!(started.elapsed() >= after);
    assert_eq!(connection.lost(), Some(Lost::TimedOut { after }));
    assert!(server.client_left());
}

#[test]
fn a_server_that_stops_in_the_middle_of_a_reply_times_out() {
    let options = Options {
        request_timeout: Some(Duration::from_millis(50)),
        ..Options::default()
    };
    for cut in [1, 15, 17, 900] {
        let (connection, mut server) = pair(HeaderStyle::Simple, options.clone());
        let read = ask(&connection, READ);
        let request = server.request();
        let whole = [simple(0, request.cookie), vec![1; 1000]].concat();
        server.say(&whole[..cut]);
        assert_eq!(only(read).unwrap_err().errno, TIMED_OUT);
    }
}

#[test]
fn a_server_that_answers_in_time_is_never_given_up() {
    let options = Options {
        request_timeout: Some(Duration::from_millis(200)),
        ..Options::default()
    };
    let (connection, mut server) = pair(HeaderStyle::Simple, options);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        let outcome = ask(&connection, Command::Flush);
        let request = server.request();
        server.say(&simple(0, request.cookie));
        assert_eq!(only(outcome), Ok(Answer::Done));
    }
    assert!(connection.is_alive());
}

#[test]
fn a_server_that_never_reads_does_not_hold_a_submitter_and_times_out() {
    let options = Options {
        request_timeout: Some(Duration::from_millis(300)),
        ..Options::default()
    };
    let (connection, _server) = pair(HeaderStyle::Simple, options);
    let data = Bytes::from(vec![1; 8 << 20]);
    let started = Instant::now();
    let outcomes: Vec<_> = (0..4)
        .map(|_| {
            ask(
                &connection,
                Command::Write {
                    offset: 0,
                    data: data.clone(),
                    fua: false,
                },
            )
        })
        .collect();
    assert!(
        started.elapsed() < Duration::from_millis(250),
        "a submit waited for the socket"
    );
    let errnos: Vec<Errno> = outcomes
        .into_iter()
        .map(|outcome| only(outcome).unwrap_err().errno)
        .collect();
    assert_eq!(errnos[0], TIMED_OUT);
    assert!(
        errnos
            .iter()
            .all(|errno| [TIMED_OUT, NOT_SENT].contains(errno)),
        "{errnos:?}"
    );
}

#[test]
fn what_was_never_sent_is_told_so() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let sent = ask(&connection, Command::Flush);
    server.request();
    let queued = submit(
        &connection,
        Command::Write {
            offset: 0,
            data: vec![1; 512].into(),
            fua: false,
        },
    );
    connection.abort();
    assert_eq!(only(sent).unwrap_err().errno, LOST);
    let failure = only(queued).unwrap_err();
    assert_eq!(failure.errno, NOT_SENT, "{failure}");
    assert!(server.client_left());
}

#[test]
fn a_server_that_hangs_up_fails_everything_once() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcomes: Vec<_> = (0..100).map(|_| submit(&connection, READ)).collect();
    connection.kick();
    server.request();
    drop(server);
    for outcome in outcomes {
        let failure = only(outcome).unwrap_err();
        assert!([LOST, NOT_SENT].contains(&failure.errno), "{failure}");
    }
    assert!(!connection.is_alive());
}

#[test]
fn a_dropped_connection_completes_what_is_in_flight() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcome = ask(&connection, READ);
    server.request();
    drop(connection);
    assert_eq!(only(outcome).unwrap_err().errno, LOST);
    assert!(server.client_left());
}

#[test]
fn a_closed_connection_says_goodbye_after_the_last_answer() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcome = ask(&connection, Command::Flush);
    let flush = server.request();
    connection.close();
    assert_eq!(
        only(ask(&connection, Command::Flush)).unwrap_err().errno,
        NOT_SENT
    );
    server.say(&simple(0, flush.cookie));
    assert_eq!(only(outcome), Ok(Answer::Done));
    assert_eq!(server.request().kind, CommandType::DISC);
    drop(server);
    drop(connection);
}

#[test]
fn an_idle_connection_that_is_dropped_says_goodbye() {
    let (connection, mut server) = pair(HeaderStyle::Extended, Options::default());
    drop(connection);
    assert_eq!(server.request().kind, CommandType::DISC);
}

#[test]
fn a_server_that_shuts_down_is_left_softly() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcome = ask(&connection, Command::Flush);
    let request = server.request();
    server.say(&simple(Errno::ESHUTDOWN.0, request.cookie));
    assert_eq!(only(outcome).unwrap_err().errno, Errno::ESHUTDOWN);
    assert_eq!(server.request().kind, CommandType::DISC);
    assert!(!connection.is_alive());
}

#[test]
fn a_completion_that_panics_ends_the_connection_and_no_other_request_is_forgotten() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    connection.submit(
        Command::Flush,
        Completion::new(|_| panic!("a test's panic, expected")),
    );
    let batched = submit(&connection, Command::Flush);
    let pending = ask(&connection, Command::Flush);
    let (one, two) = (server.request(), server.request());
    server.say(&[simple(0, one.cookie), simple(0, two.cookie)].concat());
    assert_eq!(only(batched), Ok(Answer::Done));
    assert_eq!(only(pending).unwrap_err().errno, LOST);
}
