//! Copying files to and from an NBD export, and comparing them: many pieces at once, holes left out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nbd_client::{Client, ClientOptions, Target};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use tokio::task::JoinSet;

/// Bytes of one piece.
pub const PIECE: u64 = 1 << 20;

/// Called with the bytes that were done.
pub type Advance = Arc<dyn Fn(u64) + Send + Sync>;

/// Connects to an export. A connection that is lost stays lost: the story wants to see that, and not wait.
///
/// # Errors
/// If the URI is none or nobody answers there.
pub async fn connect(uri: &str) -> Result<Client> {
    let target: Target = uri.parse()?;
    let options = ClientOptions {
        give_up_after: Duration::ZERO,
        ..ClientOptions::default()
    };
    Client::connect(target, options)
        .await
        .with_context(|| uri.to_owned())
}

/// Copies a file to the beginning of an export whose holes read as zeroes already, and flushes. Returns the bytes written.
///
/// # Errors
/// If a read, a write or the flush fails.
pub async fn copy_in(file: &Path, client: &Client, advance: Advance) -> Result<u64> {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let to = client.clone();
    let (source, size) = open(file)?;
    pieces(size, move |offset, length| {
        let (source, client, written, advance) = (
            Arc::clone(&source),
            to.clone(),
            Arc::clone(&count),
            Arc::clone(&advance),
        );
        async move {
            let data =
                next_data(&source, offset)?.is_some_and(|data| data < offset + length as u64);
            if data {
                let mut bytes = vec![0; length];
                source.read_exact_at(&mut bytes, offset)?;
                if bytes.iter().any(|&byte| byte != 0) {
                    client
                        .write(offset, bytes.into(), false)
                        .await
                        .with_context(|| format!("write at {offset}"))?;
                    written.fetch_add(length as u64, Ordering::Relaxed);
                }
            }
            advance(length as u64);
            Ok(())
        }
    })
    .await?;
    client.flush().await.context("flush")?;
    Ok(written.load(Ordering::Relaxed))
}

/// Makes sure that an export begins with the bytes of a file.
///
/// # Errors
/// If it does not: the text names the first byte of a piece that differs. If a read fails.
pub async fn compare(file: &Path, client: &Client, advance: Advance) -> Result<()> {
    let (source, size) = open(file)?;
    let client = client.clone();
    pieces(size, move |offset, length| {
        let (source, client, advance) = (Arc::clone(&source), client.clone(), Arc::clone(&advance));
        async move {
            let found = client
                .read(offset, length)
                .await
                .with_context(|| format!("read at {offset}"))?;
            let mut bytes = vec![0; length];
            source.read_exact_at(&mut bytes, offset)?;
            if let Some(at) = first_difference(&bytes, &found) {
                bail!(
                    "the mirror differs from what was written to it at byte {}",
                    offset + at as u64
                );
            }
            advance(length as u64);
            Ok(())
        }
    })
    .await
}

/// Copies the first `size` bytes of an export to a new file; zeroes become holes.
///
/// # Errors
/// If a read or a write fails.
pub async fn copy_out(client: &Client, size: u64, path: &Path, advance: Advance) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(size)?;
    let file = Arc::new(file);
    let client = client.clone();
    pieces(size, move |offset, length| {
        let (file, client, advance) = (Arc::clone(&file), client.clone(), Arc::clone(&advance));
        async move {
            let bytes = client
                .read(offset, length)
                .await
                .with_context(|| format!("read at {offset}"))?;
            if bytes.iter().any(|&byte| byte != 0) {
                file.write_all_at(&bytes, offset)?;
            }
            advance(length as u64);
            Ok(())
        }
    })
    .await
}

/// Does `work` for each piece of `size` bytes, a few at once. The first error ends it.
async fn pieces<F, W>(size: u64, work: F) -> Result<()>
where
    F: Fn(u64, usize) -> W + Clone + Send + 'static,
    W: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut lanes: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..LANES {
        let (next, work) = (Arc::clone(&next), work.clone());
        lanes.spawn(async move {
            loop {
                let offset = next.fetch_add(PIECE, Ordering::Relaxed);
                if offset >= size {
                    return Ok(());
                }
                work(offset, (size - offset).min(PIECE) as usize).await?;
            }
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended.context("a copying task ended")??;
    }
    Ok(())
}

fn open(path: &Path) -> Result<(Arc<File>, u64)> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let size = file.metadata()?.len();
    Ok((Arc::new(file), size))
}

/// Where the next data of a file begin, at or after `offset`; `None` if only a hole follows.
///
/// # Errors
/// If the system can't tell.
pub fn next_data(file: &File, offset: u64) -> Result<Option<u64>> {
    let from = i64::try_from(offset)?;
    match lseek(file, from, Whence::SeekData) {
        Ok(data) => Ok(Some(data as u64)),
        Err(Errno::ENXIO) => Ok(None),
        // A file system without holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(offset)),
        Err(error) => Err(error).context("looking for data in a file"),
    }
}

/// Index of the first byte that differs; a difference in length counts as one.
pub fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    let common = one.iter().zip(other).position(|(one, other)| one != other);
    Some(common.unwrap_or(one.len().min(other.len())))
}

/// Pieces under way at once.
const LANES: usize = 8;
