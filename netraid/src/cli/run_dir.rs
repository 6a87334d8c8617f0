//! The run folder: where the sockets of running mirrors are.

use std::io;
use std::path::{Path, PathBuf};

use super::exit::Exit;

/// The folder that was asked for, or the usual one: `$NETRAID_RUN_DIR`, else `/run/netraid` for root and
/// `$XDG_RUNTIME_DIR/netraid` for everybody else.
///
/// # Errors
/// A usage error if none can be told.
pub fn resolve(asked: Option<&Path>) -> Result<PathBuf, Exit> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    usual(
        asked,
        variable("NETRAID_RUN_DIR"),
        nix::unistd::geteuid().is_root(),
        variable("XDG_RUNTIME_DIR"),
    )
    .ok_or_else(|| {
        Exit::usage(
            "there is no run folder: name one with --run-dir, $NETRAID_RUN_DIR or $XDG_RUNTIME_DIR",
        )
    })
}

fn usual(
    asked: Option<&Path>,
    own: Option<PathBuf>,
    root: bool,
    session: Option<PathBuf>,
) -> Option<PathBuf> {
    match (asked, own) {
        (Some(asked), _) => Some(asked.to_owned()),
        (None, Some(own)) => Some(own),
        (None, None) if root => Some("/run/netraid".into()),
        (None, None) => Some(session?.join("netraid")),
    }
}

/// Tags of the mirrors that have a socket in a run folder, sorted. A folder that does not exist has none.
///
/// # Errors
/// If the folder can't be read.
pub fn tags(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut tags = Vec::new();
    for entry in entries {
        let entry = entry?;
        let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&entry.file_type()?);
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Some(tag) = name
            .strip_suffix(".sock")
            .filter(|tag| is_socket && !tag.is_empty())
        {
            tags.push(tag.to_owned());
        }
    }
    tags.sort();
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_folder_that_is_named_most_exactly_wins() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            usual(Some(Path::new("/a")), path("/b"), true, path("/c")),
            path("/a")
        );
        assert_eq!(usual(None, path("/b"), true, path("/c")), path("/b"));
        assert_eq!(usual(None, None, true, path("/c")), path("/run/netraid"));
        assert_eq!(usual(None, None, false, path("/c")), path("/c/netraid"));
        assert_eq!(usual(None, None, false, None), None);
    }

    #[test]
    fn tags_come_from_sockets_alone() {
        let folder = tempfile::tempdir().unwrap();
        let _b = std::os::unix::net::UnixListener::bind(folder.path().join("b.sock")).unwrap();
        let _a = std::os::unix::net::UnixListener::bind(folder.path().join("a.sock")).unwrap();
        std::fs::write(folder.path().join("c.sock"), "").unwrap();
        assert_eq!(tags(folder.path()).unwrap(), ["a", "b"]);
        assert!(tags(&folder.path().join("none")).unwrap().is_empty());
    }
}
