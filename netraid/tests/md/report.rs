//! What `mdadm --examine` and `--examine-bitmap` print, as it was printed and as our values say that it must be.

use netraid::md::superblock::{FAIL_FAST, Features, Role, Timestamp, WRITE_MOSTLY};
use netraid::md::{BitmapSuperblock, DirtyBits, Superblock};
use std::collections::BTreeMap;

/// The lines of a report: what stands before the colon, and what stands behind it.
pub(crate) type Report = BTreeMap<String, String>;

/// Reads a report. Sizes for people in brackets are left out, as is the legend of the array state.
pub(crate) fn parse(text: &str) -> Report {
    let mut report = Report::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(" : ") else {
            continue;
        };
        let shortened = match key.trim() {
            "Array State" | "Avail Dev Size" | "Array Size" | "Used Dev Size" | "Sync Size"
            | "Name" => value.split(" (").next().unwrap(),
            _ => value,
        };
        let before = report.insert(key.trim().to_owned(), shortened.trim().to_owned());
        assert_eq!(before, None, "{key} is there twice");
    }
    // How much of the disk is free is mdadm's own reckoning, of nothing that the metadata says.
    report.remove("Unused Space");
    report.remove("Filename");
    report
}

/// What mdadm has to print for a superblock.
pub(crate) fn of_superblock(superblock: &Superblock) -> Report {
    let raw = superblock.encode();
    let mut report = Report::new();
    let mut say = |key: &str, value: String| {
        report.insert(key.to_owned(), value);
    };
    say("Magic", "a92b4efc".into());
    say(
        "Version",
        match superblock.super_offset {
            0 => "1.1",
            8 => "1.2",
            _ => "1.0",
        }
        .into(),
    );
    say("Feature Map", format!("0x{:x}", superblock.features.0));
    say("Array UUID", superblock.set_uuid.to_string());
    say("Name", superblock.name());
    say("Creation Time", date(superblock.created));
    say("Raid Level", "raid1".into());
    say("Raid Devices", superblock.raid_disks.to_string());
    say(
        "Avail Dev Size",
        format!("{} sectors", superblock.data_size),
    );
    say("Array Size", format!("{} KiB", superblock.size / 2));
    if superblock.size != superblock.data_size {
        say("Used Dev Size", format!("{} sectors", superblock.size));
    }
    if superblock.data_offset != 0 {
        say("Data Offset", format!("{} sectors", superblock.data_offset));
    }
    say(
        "Super Offset",
        format!("{} sectors", superblock.super_offset),
    );
    if superblock.features.contains(Features::RECOVERY_OFFSET) {
        say(
            "Recovery Offset",
            format!("{} sectors", superblock.recovery_offset),
        );
    }
    say(
        "State",
        if superblock.is_clean() {
            "clean"
        } else {
            "active"
        }
        .into(),
    );
    say("Device UUID", superblock.device_uuid.to_string());
    say(
        "Internal Bitmap",
        format!("{} sectors from superblock", superblock.bitmap_offset),
    );
    let flags = [(WRITE_MOSTLY, "write-mostly"), (FAIL_FAST, "failfast")];
    let flags: Vec<_> = flags
        .iter()
        .filter(|f| superblock.devflags & f.0 != 0)
        .map(|f| f.1)
        .collect();
    if !flags.is_empty() {
        say("Flags", flags.join(" "));
    }
    say("Update Time", date(superblock.updated));
    if superblock.bblog_size != 0 {
        let entries = u32::from(superblock.bblog_size) * 64;
        let at = superblock.bblog_offset;
        say(
            "Bad Block Log",
            format!("{entries} entries available at offset {at} sectors"),
        );
    }
    let sum = u32::from_le_bytes(raw[216..220].try_into().unwrap());
    say("Checksum", format!("{sum:x} - correct"));
    say("Events", superblock.events.to_string());
    say(
        "Device Role",
        match superblock.role() {
            Role::Faulty => "spare".into(),
            role => role.to_string(),
        },
    );
    say("Array State", superblock.array_state());
    report
}

/// What mdadm has to print for a bitmap.
pub(crate) fn of_bitmap(bitmap: &BitmapSuperblock, bits: &DirtyBits) -> Report {
    let mut report = Report::new();
    let mut say = |key: &str, value: String| {
        report.insert(key.to_owned(), value);
    };
    say("Magic", "6d746962".into());
    say("Version", "4".into());
    say("UUID", bitmap.uuid.to_string());
    say("Events", bitmap.events.to_string());
    say("Events Cleared", bitmap.events_cleared.to_string());
    say(
        "State",
        if bitmap.state & 2 == 0 {
            "OK"
        } else {
            "Out of date"
        }
        .into(),
    );
    let (mut chunk, mut unit) = (bitmap.chunk, 0);
    while chunk >= 1024 {
        chunk /= 1024;
        unit += 1;
    }
    say(
        "Chunksize",
        format!("{chunk} {}", ["B", "KB", "MB", "GB"][unit]),
    );
    say("Daemon", format!("{}s flush period", bitmap.daemon_sleep));
    say(
        "Write Mode",
        match bitmap.write_behind {
            0 => "Normal".into(),
            most => format!("Allow write behind, max {most}"),
        },
    );
    say("Sync Size", (bitmap.sync_size / 2).to_string());
    let (dirty, chunks) = (bits.count(), bits.chunks());
    let percent = 100.0 * dirty as f64 / chunks.max(1) as f64;
    say(
        "Bitmap",
        format!("{chunks} bits (chunks), {dirty} dirty ({percent:.1}%)"),
    );
    report
}

/// A time as C's `ctime` writes it, in universal time.
fn date(time: Timestamp) -> String {
    let (days, second) = (time.seconds / 86_400, time.seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ][month];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{weekday} {month} {:>2} {hour:02}:{minute:02}:{second:02} {year}",
        left + 1
    )
}

#[test]
fn dates_are_written_as_ctime_does() {
    assert_eq!(date(Timestamp::from_seconds(0)), "Thu Jan  1 00:00:00 1970");
    assert_eq!(
        date(Timestamp::from_seconds(1_709_210_096)),
        "Thu Feb 29 12:34:56 2024"
    );
    assert_eq!(
        date(Timestamp::from_seconds(1_750_000_000)),
        "Sun Jun 15 15:06:40 2025"
    );
}
