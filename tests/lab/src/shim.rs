//! Compiles shim/shim.c, which every kernel of the lab loads, once a version of it.

use crate::available::programs;
use anyhow::{Context, Result, bail};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = include_str!("../shim/shim.c");

/// The shared object; compiled if this build folder does not have it yet.
pub(crate) fn object() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    SOURCE.hash(&mut hasher);
    let folder = programs()?;
    let object = folder.join(format!("lab-shim-{:016x}.so", hasher.finish()));
    if object.is_file() {
        return Ok(object);
    }
    // Several tests may do this at once: each into a folder of its own, and the last rename wins.
    let work = tempfile::tempdir_in(&folder).context("a folder for the shim")?;
    let (source, made) = (work.path().join("shim.c"), work.path().join("shim.so"));
    fs::write(&source, SOURCE).context("the shim's source")?;
    let output = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&made, &source])
        .output()
        .context("cc")?;
    if !output.status.success() {
        bail!("cc: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::rename(&made, &object).context("the shim")?;
    Ok(object)
}
