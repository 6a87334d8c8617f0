//! Which size a mirror may get: what every node's disk can hold, or why it can't be told.

use super::node::{Names, NodeId};

/// What is known of one node's disk. Every node of the mirror is asked at the moment of the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Whose it is.
    pub node: NodeId,
    /// What it could hold.
    pub room: Room,
}

/// What a disk could hold of the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many bytes of data.
    Bytes(u64),
    /// Its node can't be reached.
    Away,
    /// It holds no leg of the mirror, or its node does not tell.
    Unknown,
    /// Its leg can't be resized, for this reason.
    Never(String),
}

/// What was ordered, and how the mirror is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Bytes of the mirror now.
    pub now: u64,
    /// Bytes that it is to have; as many as all disks hold if `None`.
    pub wanted: Option<u64>,
    /// It is in service.
    pub in_service: bool,
    /// What lies behind a smaller size may be lost.
    pub force: bool,
}

/// Why a mirror is not resized: a sentence, and the next command.
pub type Refused = (String, Option<String>);

/// The size that the mirror gets; the one that it has if there is nothing to do.
///
/// # Errors
/// The first thing that stands against it.
pub fn size(wish: &Wish, disks: &[Disk], names: &Names) -> Result<u64, Refused> {
    let tag = &names.tag;
    let status = || Some(format!("netraid status {tag}"));
    let mut least: Option<(u64, NodeId)> = None;
    for disk in disks {
        let name = names.node(disk.node);
        let bytes = match &disk.room {
            Room::Bytes(bytes) => *bytes,
            Room::Away => {
                let why = format!(
                    "{name} can't be reached: how much its disk holds has to be known first"
                );
                return Err((why, status()));
            }
            Room::Unknown => {
                let why = format!("{name} does not tell how much its disk holds of {tag}");
                return Err((why, Some(format!("netraid explain {tag}"))));
            }
            Room::Never(why) => {
                return Err((format!("the leg of {name} can't be resized: {why}"), None));
            }
        };
        if least.is_none_or(|(smallest, _)| bytes < smallest) {
            least = Some((bytes, disk.node));
        }
    }
    let Some((room, smallest)) = least else {
        return Ok(wish.now);
    };
    let smallest = names.node(smallest);
    let again = || Some(format!("mirror_resize {tag}"));
    let size = wish.wanted.unwrap_or(room - room % ALIGN);
    if size == 0 || !size.is_multiple_of(ALIGN) {
        let why = format!("{size} bytes is no size of a mirror: a multiple of {ALIGN} is needed");
        return Err((why, None));
    }
    if size > room {
        let more = size - room;
        let why = format!(
            "the disk of {smallest} has room for {room} bytes of data, {size} are needed: enlarge it by {more} bytes first"
        );
        return Err((why, again()));
    }
    let larger = disks
        .iter()
        .find(|disk| matches!(disk.room, Room::Bytes(bytes) if bytes >= wish.now + ALIGN));
    match (wish.wanted, larger) {
        (None, Some(larger)) if size <= wish.now => {
            let larger = names.node(larger.node);
            let why = format!(
                "the disk of {larger} holds more than the {} bytes of {tag}, but that of {smallest} holds {room}: enlarge \
                 it first",
                wish.now
            );
            Err((why, again()))
        }
        (None, None) => Ok(wish.now),
        _ if size < wish.now && wish.in_service => {
            let why = format!("{tag} is in service, and becomes smaller only out of service");
            Err((why, Some(format!("netraid stop {tag}"))))
        }
        _ if size < wish.now && !wish.force => {
            let why = format!(
                "that would give up the last {} bytes of {tag} for ever; nothing was changed",
                wish.now - size
            );
            Err((
                why,
                Some(format!("mirror_resize -f -s {} {tag}", size >> 10)),
            ))
        }
        _ => Ok(size),
    }
}

/// The size of a mirror is a multiple of this.
const ALIGN: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn names() -> Names {
        Names {
            tag: "data".into(),
            nodes: ["one", "two", "three"].map(String::from).into(),
        }
    }

    fn disks(rooms: &[Room]) -> Vec<Disk> {
        let nodes = (0..8).filter_map(NodeId::new);
        let disks = nodes.zip(rooms).map(|(node, room)| Disk {
            node,
            room: room.clone(),
        });
        disks.collect()
    }

    fn ask(
        wanted: Option<u64>,
        in_service: bool,
        force: bool,
        rooms: &[Room],
    ) -> Result<u64, Refused> {
        let wish = Wish {
            now: 8 * MIB,
            wanted,
            in_service,
            force,
        };
        size(&wish, &disks(rooms), &names())
    }

    #[test]
    fn it_grows_to_the_smallest_that_all_hold_or_to_what_was_asked_for() {
        let rooms = [
            Room::Bytes(16 * MIB + 512),
            Room::Bytes(12 * MIB + 512),
            Room::Bytes(20 * MIB),
        ];
        assert_eq!(ask(None, true, false, &rooms), Ok(12 * MIB));
        assert_eq!(ask(Some(10 * MIB), true, false, &rooms), Ok(10 * MIB));
        assert_eq!(
            ask(Some(8 * MIB), true, false, &rooms),
            Ok(8 * MIB),
            "already so"
        );
        assert_eq!(
            ask(None, true, false, &[Room::Bytes(8 * MIB + 512)]),
            Ok(8 * MIB)
        );
    }

    #[test]
    fn who_stands_against_it_is_named_with_the_bytes_and_the_next_command() {
        let grown = || Room::Bytes(16 * MIB);
        type Row<'a> = (Option<u64>, &'a [Room], &'a str, Option<&'a str>);
        let table: [Row<'_>; 7] = [
            (
                None,
                &[grown(), Room::Away],
                "two can't be reached: how much its disk holds has to be known first",
                Some("netraid status data"),
            ),
            (
                None,
                &[grown(), Room::Unknown],
                "two does not tell how much its disk holds of data",
                Some("netraid explain data"),
            ),
            (
                None,
                &[Room::Never("it is of version 1.0".into()), grown()],
                "the leg of one can't be resized: it is of version 1.0",
                None,
            ),
            (
                None,
                &[grown(), Room::Bytes(8 * MIB)],
                "the disk of one holds more than the 8388608 bytes of data, but that of two holds 8388608: enlarge it first",
                Some("mirror_resize data"),
            ),
            (
                Some(16 * MIB),
                &[grown(), Room::Bytes(12 * MIB)],
                "the disk of two has room for 12582912 bytes of data, 16777216 are needed: enlarge it by 4194304 bytes first",
                Some("mirror_resize data"),
            ),
            (
                Some(5000),
                &[grown()],
                "5000 bytes is no size of a mirror: a multiple of 4096 is needed",
                None,
            ),
            (
                Some(4 * MIB),
                &[grown(), grown()],
                "data is in service, and becomes smaller only out of service",
                Some("netraid stop data"),
            ),
        ];
        for (wanted, rooms, why, next) in table {
            let refused = (why.to_owned(), next.map(String::from));
            assert_eq!(ask(wanted, true, true, rooms), Err(refused));
        }
    }

    #[test]
    fn a_smaller_size_needs_force_and_says_what_is_lost() {
        let rooms = [Room::Bytes(8 * MIB), Room::Bytes(9 * MIB)];
        let refused = ask(Some(4 * MIB), false, false, &rooms).unwrap_err();
        assert_eq!(
            refused,
            (
                "that would give up the last 4194304 bytes of data for ever; nothing was changed"
                    .into(),
                Some("mirror_resize -f -s 4096 data".into())
            )
        );
        assert_eq!(ask(Some(4 * MIB), false, true, &rooms), Ok(4 * MIB));
    }
}
