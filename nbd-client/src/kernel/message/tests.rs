//! The bytes of each message, written out by hand from linux/nbd-netlink.h.

use super::super::attribute::messages;
use super::*;

/// Bytes of a hex text in groups.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

#[test]
#[cfg(target_endian = "little")]
fn connect_is_what_nbd_netlink_h_says() {
    let connect = Connect {
        index: Some(3),
        size: 0x10_0000,
        block_size: 4096,
        timeout: 30,
        dead_timeout: 60,
        server_flags: TransmissionFlags(0x010d),
        client_flags: ClientFlags::DISCONNECT_ON_CLOSE,
        sockets: vec![5, 6],
        identifier: "ab".into(),
    };
    let expected = hex("88000000 1b00 0500 07000000 00000000  01 01 0000
         0800 0100 03000000
         0c00 0200 0000100000000000
         0c00 0300 0010000000000000
         0c00 0400 1e00000000000000
         0c00 0500 0d01000000000000
         0c00 0600 0200000000000000
         1c00 0780
           0c00 0180 0800 0100 05000000
           0c00 0180 0800 0100 06000000
         0c00 0800 3c00000000000000
         0700 0a00 616200 00");
    assert_eq!(connect.encode(27, 7), expected);
    let next = Connect {
        index: None,
        ..connect
    };
    let mut without_index = expected;
    without_index.drain(20..28);
    without_index[0] -= 8;
    assert_eq!(next.encode(27, 7), without_index);
}

#[test]
#[cfg(target_endian = "little")]
fn the_other_commands_are_what_nbd_netlink_h_says() {
    assert_eq!(
        disconnect(27, 1, 2),
        hex("1c000000 1b00 0500 01000000 00000000  02 01 0000  0800 0100 02000000")
    );
    assert_eq!(
        reconfigure(27, 1, 2, "ab", Some(9), None),
        hex("34000000 1b00 0500 01000000 00000000  03 01 0000
             0800 0100 02000000
             1000 0780 0c00 0180 0800 0100 09000000
             0700 0a00 616200 00")
    );
    assert_eq!(
        reconfigure(27, 1, 2, "ab", None, Some(60)),
        hex("30000000 1b00 0500 01000000 00000000  03 01 0000
             0800 0100 02000000
             0c00 0800 3c00000000000000
             0700 0a00 616200 00")
    );
    assert_eq!(
        status(27, 1, None),
        hex("14000000 1b00 0500 01000000 00000000  05 01 0000")
    );
    assert_eq!(
        status(27, 1, Some(0)),
        hex("1c000000 1b00 0500 01000000 00000000  05 01 0000  0800 0100 00000000")
    );
    assert_eq!(
        get_family(1),
        hex("1c000000 1000 0500 01000000 00000000  03 01 0000  0800 0200 6e626400")
    );
}

#[test]
#[cfg(target_endian = "little")]
fn the_controllers_answer_names_the_family_and_its_group() {
    // Recorded from Linux 6.1.176.
    let bytes = hex("b4000000 10000000 01000000 ae020000 01020000 08000200 6e626400 06000100 1a000000 08000300
         01000000 08000400 00000000 08000500 0a000000 54000600 14000100 08000100 01000000 08000200 0a000000
         14000200 08000100 02000000 08000200 0a000000 14000300 08000100 03000000 08000200 0a000000 14000400
         08000100 05000000 08000200 0a000000 24000700 20000100 08000200 03000000 11000100 6e62645f 6d635f67
         726f7570 00000000");
    let messages = messages(&bytes).unwrap();
    let family = Family {
        id: 26,
        group: Some(3),
    };
    assert_eq!(Family::decode(&messages[0]), Ok(family));
}

#[test]
#[cfg(target_endian = "little")]
fn status_and_link_dead_are_read() {
    let bytes = hex("48000000 1b00 0000 01000000 00000000  05 01 0000
         3400 0980
           1400 0180 0800 0100 00000000 0500 0200 01 000000
           1c00 0180 0800 0100 01000000 0500 0200 00 000000 0800 0900 ffffffff
         1c000000 1b00 0000 00000000 00000000  04 01 0000  0800 0100 02000000");
    let messages = messages(&bytes).unwrap();
    let devices =
        [(0, true), (1, false)].map(|(index, connected)| DeviceStatus { index, connected });
    assert_eq!(
        Announcement::decode(&messages[0]),
        Ok(Announcement::Devices(devices.into()))
    );
    assert_eq!(
        Announcement::decode(&messages[1]),
        Ok(Announcement::LinkDead { index: 2 })
    );
}

#[test]
fn an_answer_without_what_it_should_hold_is_refused() {
    for command in [CONNECT, LINK_DEAD] {
        let mut message = Writer::request(27, 1, command, 1);
        message.u64(INDEX, 1);
        let bytes = message.finish();
        assert!(Announcement::decode(&messages(&bytes).unwrap()[0]).is_err());
    }
    let bytes = Writer::request(27, 1, 200, 1).finish();
    assert_eq!(
        Announcement::decode(&messages(&bytes).unwrap()[0]),
        Ok(Announcement::Other)
    );
}
