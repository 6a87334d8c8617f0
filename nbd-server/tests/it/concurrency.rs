//! Nothing waits for what does not concern it.

use std::time::Duration;

use crate::client::*;
use crate::devices::{GateDevice, is_read, is_write};
use crate::setup::{TestServer, wait_until};

#[test]
fn a_later_request_may_be_answered_before_an_earlier_one() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    let mut client = server.attach();
    device.hold(is_read);
    client.request(READ, 0, 1, 0, 4);
    client.request(READ, 0, 2, 4, 4);
    device.wait_for_held(2);
    device.release(1);
    assert_eq!(client.answer(4).cookie, 2);
    assert_eq!(client.call_write(0, 100, b"meanwhile"), 0);
    device.release(0);
    assert_eq!(client.answer(4).cookie, 1);
}

#[test]
fn an_export_that_hangs_does_not_stall_another_one() {
    let slow = GateDevice::new(4096);
    let server = TestServer::new(vec![
        ("slow", slow.clone()),
        ("quick", GateDevice::new(4096)),
    ]);
    slow.hold(|_| true);
    let mut stuck = Client::attach(&server.socket, "slow");
    for cookie in 0..200 {
        stuck.request(READ, 0, cookie, 0, 4);
    }
    slow.wait_for_held(200);
    let mut client = Client::attach(&server.socket, "quick");
    for _ in 0..100 {
        assert_eq!(client.call_read(0, 4), [0; 4]);
    }
    slow.open();
    assert_eq!(
        (0..200).map(|_| stuck.answer(4).cookie).collect::<Vec<_>>(),
        (0..200).collect::<Vec<_>>()
    );
}

#[test]
fn a_client_that_never_reads_holds_bounded_memory_and_nobody_else() {
    let device = GateDevice::new(1 << 20);
    let server = TestServer::of(device.clone());
    let mut greedy = server.attach();
    greedy
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    // Asks for a MiB as often as the server takes it.
    let mut asked = 0;
    while std::io::Write::write_all(
        &mut greedy.stream,
        &request_bytes(READ, 0, asked, 0, 1 << 20),
    )
    .is_ok()
    {
        asked += 1;
        assert!(asked < 1_000_000, "the server takes requests without end");
    }
    let begun = device.seen().len();
    assert!(
        begun <= 66,
        "{begun} MiB were read for a client that takes nothing"
    );
    let mut other = server.attach();
    assert_eq!(other.call_write(0, 0, &[7; 4096]), 0);
    assert_eq!(other.call_read(0, 2), [7, 7]);
    drop(greedy);
    server.wait_for_connections(1);
}

#[test]
fn what_one_connection_has_in_flight_is_bounded() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    device.hold(is_read);
    let mut client = server.attach();
    // In one packet: what the server does not receive has to fit into the socket.
    let requests: Vec<u8> = (0..1000)
        .flat_map(|cookie| request_bytes(READ, 0, cookie, 0, 4))
        .collect();
    client.send(&requests);
    // They are begun by up to 64 at a time.
    device.wait_for_held(193);
    device.assert_no_more_than(256);
    device.open();
    let mut cookies: Vec<u64> = (0..1000).map(|_| client.answer(4).cookie).collect();
    cookies.sort();
    assert_eq!(cookies, (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_write_is_not_held_up_by_a_client_that_does_not_read() {
    let device = GateDevice::new(4 << 20);
    let server = TestServer::of(device.clone());
    // In one packet: more data than its socket takes, and a write.
    let mut greedy = server.attach();
    let mut message = Vec::new();
    for cookie in 0..40 {
        message.extend(request_bytes(READ, 0, cookie, 0, 200 << 10));
        message.extend(request_bytes(WRITE, 0, 100 + cookie, 0, 512));
        message.extend([1; 512]);
    }
    greedy.send(&message);
    wait_until("the first write", || device.byte(0) == 1);
    let mut other = server.attach();
    assert_eq!(other.call_write(0, 0, &[2; 512]), 0);
}

#[test]
fn completions_from_other_threads_reach_a_client_that_reads_late() {
    let device = GateDevice::new(4 << 20);
    let server = TestServer::of(device.clone());
    device.hold(is_read);
    let mut client = server.attach();
    for cookie in 0..16 {
        client.request(READ, 0, cookie, 0, 2 << 20);
    }
    device.wait_for_held(16);
    // This thread must not wait for the client, which reads only afterwards.
    nbd_server::batch(|| device.open());
    let mut cookies: Vec<u64> = (0..16).map(|_| client.answer(2 << 20).cookie).collect();
    cookies.sort();
    assert_eq!(cookies, (0..16).collect::<Vec<_>>());
    assert_eq!(client.call_read(0, 4), [0; 4]);
}

#[test]
fn overlapping_writes_of_two_connections_reach_the_device_one_after_the_other() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    device.hold(is_write);
    let (mut one, mut two) = (server.attach(), server.attach());
    one.write(0, 1, 0, &[1; 1024]);
    device.wait_for_held(1);
    two.write(0, 2, 512, &[2; 1024]);
    two.write(0, 3, 2048, &[3; 512]);
    // The third overlaps nothing; the second waits for the first.
    device.wait_for_held(2);
    device.release(1);
    assert_eq!(two.answer(0).cookie, 3);
    device.release(0);
    device.wait_for_held(1);
    device.open();
    assert_eq!((one.answer(0).cookie, two.answer(0).cookie), (1, 2));
    assert_eq!((device.byte(511), device.byte(512)), (1, 2));
}

#[test]
fn a_long_queue_behind_one_range_does_not_overflow_a_stack() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    device.hold(is_write);
    let mut clients: Vec<Client> = (0..8).map(|_| server.attach()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for cookie in 0..200u64 {
            client.write(0, cookie, 0, &[number as u8; 16]);
        }
        assert_eq!(client.call(FLUSH, 0, 0, 0), 0);
    }
    device.open();
    for client in &mut clients {
        assert_eq!(
            (0..200)
                .map(|_| client.answer(0).cookie)
                .collect::<Vec<_>>(),
            (0..200).collect::<Vec<_>>()
        );
    }
    assert_eq!(
        device.byte(0),
        7,
        "the last one to arrive is the last one to land"
    );
}

#[test]
fn greedy_clients_together_are_bounded_and_leave_room_for_ordinary_requests() {
    let device = GateDevice::new(8 << 20);
    let options = nbd_server::server::Options {
        max_memory: 10 << 20,
        ..Default::default()
    };
    let server = TestServer::with(options, vec![("disk", device.clone())]);
    let mut greedy: Vec<Client> = (0..8).map(|_| server.attach()).collect();
    for client in &mut greedy {
        for cookie in 0..4 {
            client.request(READ, 0, cookie, 0, 3 << 20);
        }
    }
    // Three fit into the shared 10 MiB beside the MiB that each connection has of its own.
    wait_until("the first reads", || device.seen().len() >= 3);
    let mut other = server.attach();
    for _ in 0..100 {
        assert_eq!(other.call_read(0, 4096), [0; 4096]);
    }
    let begun = device
        .seen()
        .iter()
        .filter(|seen| seen.ends_with("+3145728)"))
        .count();
    assert!(begun <= 5, "{begun} reads of 3 MiB were begun");
    // When they take their answers, everybody gets a turn.
    for client in &mut greedy {
        client
            .stream
            .set_read_timeout(Some(crate::devices::PATIENCE))
            .unwrap();
    }
    std::thread::scope(|scope| {
        for client in &mut greedy {
            scope.spawn(|| (0..4).for_each(|_| assert_eq!(client.answer(3 << 20).error, 0)));
        }
    });
}

#[test]
fn a_server_that_stops_cuts_a_client_that_takes_no_answers() {
    let device = GateDevice::new(1 << 20);
    let server = TestServer::of(device.clone());
    let mut greedy = server.attach();
    greedy
        .stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    while std::io::Write::write_all(&mut greedy.stream, &request_bytes(READ, 0, 1, 0, 1 << 20))
        .is_ok()
    {}
    let mut idle = server.attach();
    let stopped = server.handle.stop(Duration::from_millis(300));
    assert_eq!((stopped.cut, stopped.unflushed), (1, 0));
    idle.wait_for_close();
    assert_eq!(device.seen().last().map(String::as_str), Some("Flush"));
}
