//! What the kernel shows of its arrays in sysfs, and how its attributes read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One array of `/sys/block`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name, such as `md127`.
    pub name: String,
    /// `clear`, `inactive`, `readonly`, `read-auto`, `clean`, `active`, `write-pending`, `active-idle`, `broken`.
    pub state: String,
    /// `raid1`, and others.
    pub level: String,
    /// Legs that it should have.
    pub raid_disks: u32,
    /// Legs that are missing or incomplete.
    pub degraded: u32,
    /// `idle`, `recover`, `resync`, `check`, `repair`, `frozen`; empty if it has none.
    pub action: String,
    /// Sectors done and to do of what `action` says.
    pub completed: Option<(u64, u64)>,
    /// Speed of it in KiB a second.
    pub speed: Option<u64>,
    /// Bounds of it in KiB a second.
    pub speed_max: Option<u32>,
    /// The lower one.
    pub speed_min: Option<u32>,
    /// Whether there is a write-intent bitmap.
    pub bitmap: bool,
    /// Writes that may be on the way to write-mostly legs.
    pub backlog: u32,
    /// Its legs, by name.
    pub members: Vec<Member>,
}

/// One leg of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The kernel's name of the device, such as `nbd0`.
    pub name: String,
    /// Its place in the array; `None` for a spare or a failed leg.
    pub slot: Option<usize>,
    /// `in_sync`, `faulty`, `write_mostly`, `spare` and so on.
    pub flags: Vec<String>,
}

impl Member {
    /// Whether a flag is set.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    /// Whether it is at the other end of a network: those are written mostly, and named so.
    pub fn is_remote(&self) -> bool {
        self.is("write_mostly") || self.name.starts_with("nbd")
    }

    /// Its device node below `dev`. The kernel writes `!` where a name has a slash.
    pub fn path(&self, dev: &Path) -> PathBuf {
        dev.join(self.name.replace('!', "/"))
    }
}

/// The md folder of an array.
pub fn folder(sysfs: &Path, array: &str) -> PathBuf {
    sysfs.join("block").join(array).join("md")
}

/// All arrays, by name.
///
/// # Errors
/// If sysfs can't be read. An array that vanishes meanwhile is left out.
pub fn arrays(sysfs: &Path) -> io::Result<Vec<View>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sysfs.join("block"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if folder(sysfs, &name).is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names
        .iter()
        .filter_map(|name| view(sysfs, name).ok())
        .collect())
}

/// One array.
///
/// # Errors
/// If it is not there.
pub fn view(sysfs: &Path, name: &str) -> io::Result<View> {
    let folder = folder(sysfs, name);
    // Attributes come and go with the state of the array; the state itself is always there.
    let text = |attribute: &str| read(&folder.join(attribute)).unwrap_or_default();
    Ok(View {
        name: name.to_owned(),
        state: read(&folder.join("array_state"))?,
        level: text("level"),
        raid_disks: number(&text("raid_disks")).unwrap_or(0),
        degraded: number(&text("degraded")).unwrap_or(0),
        action: text("sync_action"),
        completed: completed(&text("sync_completed")),
        speed: number(&text("sync_speed")),
        speed_max: number(&text("sync_speed_max")),
        speed_min: number(&text("sync_speed_min")),
        bitmap: !matches!(text("bitmap/location").as_str(), "" | "none"),
        backlog: number(&text("bitmap/backlog")).unwrap_or(0),
        members: members(&folder)?,
    })
}

fn members(folder: &Path) -> io::Result<Vec<Member>> {
    let mut members = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = file.strip_prefix("dev-") else {
            continue;
        };
        // A leg that is being removed has a folder without attributes for a moment.
        let Ok(state) = read(&entry.path().join("state")) else {
            continue;
        };
        let slot = read(&entry.path().join("slot")).unwrap_or_default();
        members.push(Member {
            name: name.to_owned(),
            slot: slot.parse().ok(),
            flags: flags(&state),
        });
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

/// The words of a leg's `state`.
pub fn flags(state: &str) -> Vec<String> {
    state
        .split(',')
        .map(str::trim)
        .filter(|flag| !flag.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `sync_completed`: `none`, `delayed`, or `DONE / WHOLE` in sectors.
pub fn completed(text: &str) -> Option<(u64, u64)> {
    let (done, whole) = text.split_once('/')?;
    Some((done.trim().parse().ok()?, whole.trim().parse().ok()?))
}

/// A number that may be followed by words, as in `200000 (system)`.
pub fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

/// One attribute without its end of line.
///
/// # Errors
/// If it is not there.
pub fn read(file: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(file)?.trim().to_owned())
}

/// Sets one attribute: one write(2), which the kernel takes or refuses as a whole.
///
/// # Errors
/// The kernel's refusal.
pub fn write(file: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut attribute = fs::OpenOptions::new().write(true).open(file)?;
    match attribute.write(value.as_bytes())? {
        count if count == value.len() => Ok(()),
        count => Err(io::Error::other(format!(
            "the kernel took {count} of {} bytes",
            value.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_the_kernel_writes_them() {
        assert_eq!(completed("none"), None);
        assert_eq!(completed("delayed"), None);
        assert_eq!(completed("1048576 / 2095104"), Some((1_048_576, 2_095_104)));
        assert_eq!(number::<u32>("200000 (system)"), Some(200_000));
        assert_eq!(number::<u64>("none"), None);
        assert_eq!(flags("in_sync,write_mostly"), ["in_sync", "write_mostly"]);
        assert_eq!(flags(""), Vec::<String>::new());
    }

    #[test]
    fn an_array_is_read_from_its_folder() {
        let sysfs = tempfile::tempdir().unwrap();
        let md = folder(sysfs.path(), "md127");
        let put = |file: &str, text: &str| {
            let file = md.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{text}\n")).unwrap();
        };
        put("array_state", "active");
        put("level", "raid1");
        put("raid_disks", "2");
        put("degraded", "1");
        put("sync_action", "recover");
        put("sync_completed", "128 / 1024");
        put("sync_speed", "4096");
        put("sync_speed_max", "500000 (local)");
        put("sync_speed_min", "1000 (system)");
        put("bitmap/location", "+8");
        put("bitmap/backlog", "256");
        put("dev-sdb1/state", "in_sync");
        put("dev-sdb1/slot", "0");
        put("dev-nbd0/state", "faulty,write_mostly");
        put("dev-nbd0/slot", "none");
        fs::create_dir_all(sysfs.path().join("block/sda")).unwrap();
        let all = arrays(sysfs.path()).unwrap();
        assert_eq!(all.len(), 1);
        let view = &all[0];
        assert_eq!(
            (view.completed, view.speed),
            (Some((128, 1024)), Some(4096))
        );
        assert_eq!(
            (view.speed_max, view.speed_min),
            (Some(500_000), Some(1000))
        );
        assert!(view.bitmap && view.backlog == 256 && view.degraded == 1);
        let [remote, local] = &view.members[..] else {
            panic!("{:?}", view.members);
        };
        assert!(remote.is_remote() && remote.is("faulty") && remote.slot.is_none());
        assert!(!local.is_remote() && local.slot == Some(0));
        assert_eq!(local.path(Path::new("/dev")), Path::new("/dev/sdb1"));
    }
}
