//! Either end of a copy or comparison: a local file or device, or an NBD export.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use nbd_client::client::Zeroing;
use nbd_client::{Client, ClientOptions, Options, uri};
use nbd_protocol::number::TransmissionFlags;

use super::arguments::{self, Patience, Traffic};
use super::exit::Exit;
use super::local::{Local, too_small};

/// What can be read and written.
#[derive(Debug)]
pub(crate) struct Place {
    name: String,
    medium: Medium,
}

#[derive(Debug)]
enum Medium {
    Local(Local),
    /// An export, and the position of `base:allocation` if it has that.
    Remote(Client, Option<usize>),
}

/// Bytes that are all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) length: u64,
    /// They certainly read as zeroes.
    pub(crate) zero: bool,
}

impl Place {
    /// Opens a path or URI for reading.
    pub(crate) async fn source(
        text: &str,
        traffic: &Traffic,
        patience: Patience,
    ) -> Result<Place, Exit> {
        let medium = if uri::looks_like_uri(text) {
            Medium::connect(
                text,
                traffic,
                patience,
                ClientOptions::default().give_up_after,
            )
            .await?
        } else {
            Medium::Local(Local::source(Path::new(text))?)
        };
        Ok(Place {
            name: text.to_owned(),
            medium,
        })
    }

    /// Opens or makes what all of `source` can be written to; anything else is refused unchanged.
    pub(crate) async fn destination(
        text: &str,
        source: &Place,
        traffic: &Traffic,
        patience: Patience,
    ) -> Result<Place, Exit> {
        let size = source.size();
        let name = text.to_owned();
        if !uri::looks_like_uri(text) {
            let from = match &source.medium {
                Medium::Local(local) => Some(local),
                Medium::Remote(..) => None,
            };
            return Ok(Place {
                name,
                medium: Medium::Local(Local::destination(Path::new(text), size, from)?),
            });
        }
        if uri::looks_like_uri(&source.name)
            && arguments::target(text)? == arguments::target(&source.name)?
        {
            return Err(Exit::refused(format!("{text} is the source itself")));
        }
        // A server that comes back may have lost what it had acknowledged: a copy must not go on as if nothing were.
        let medium = Medium::connect(text, traffic, patience, Duration::ZERO).await?;
        if let Medium::Remote(client, _) = &medium {
            let export = client.export();
            if export.offers(TransmissionFlags::READ_ONLY) {
                return Err(Exit::refused(format!("{text} is read-only")));
            }
            if export.size < size {
                return Err(too_small(text, export.size, size));
            }
            let block = u64::from(export.minimum_block);
            if !size.is_multiple_of(block) {
                let what = format!(
                    "{text} takes only multiples of {block} bytes, but the source has {size}"
                );
                return Err(Exit::refused(what));
            }
        }
        Ok(Place { name, medium })
    }

    /// What the user called it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn size(&self) -> u64 {
        match &self.medium {
            Medium::Local(local) => local.size(),
            Medium::Remote(client, _) => client.export().size,
        }
    }

    /// Unit of offsets and lengths in bytes.
    pub(crate) fn minimum_block(&self) -> u64 {
        match &self.medium {
            Medium::Local(_) => 1,
            Medium::Remote(client, _) => u64::from(client.export().minimum_block),
        }
    }

    /// Whether it reads as zeroes wherever nothing was written yet.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.medium, Medium::Local(local) if local.empty)
    }

    pub(crate) async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Exit> {
        match &self.medium {
            Medium::Local(local) => local
                .read(offset, length)
                .map_err(|error| self.failed("read", offset, &error)),
            Medium::Remote(client, _) => client
                .read(offset, length)
                .await
                .map_err(|error| Exit::request(&self.doing("read", offset), &error)),
        }
    }

    pub(crate) async fn write(&self, offset: u64, data: Bytes) -> Result<(), Exit> {
        match &self.medium {
            Medium::Local(local) => local
                .write(offset, &data)
                .await
                .map_err(|error| self.failed("write", offset, &error)),
            Medium::Remote(client, _) => client
                .write(offset, data, false)
                .await
                .map_err(|error| Exit::request(&self.doing("write", offset), &error)),
        }
    }

    /// Makes a range read as zeroes, by a hole unless `allocated`.
    pub(crate) async fn zero(&self, offset: u64, length: u64, allocated: bool) -> Result<(), Exit> {
        match &self.medium {
            Medium::Local(local) => local
                .zero(offset, length, allocated)
                .map_err(|error| self.failed("zero", offset, &error)),
            Medium::Remote(client, _) => {
                let how = Zeroing {
                    no_hole: allocated,
                    ..Zeroing::default()
                };
                let zeroed = client.write_zeroes(offset, length, how).await;
                zeroed.map_err(|error| Exit::request(&self.doing("zero", offset), &error))
            }
        }
    }

    pub(crate) async fn flush(&self) -> Result<(), Exit> {
        let doing = format!("can't flush {}", self.name);
        match &self.medium {
            Medium::Local(local) => local
                .flush()
                .map_err(|error| Exit::failed(format!("{doing}: {error}"))),
            Medium::Remote(client, _) => client
                .flush()
                .await
                .map_err(|error| Exit::request(&doing, &error)),
        }
    }

    /// Some runs from `offset` on, which is before the end; at least one. What is unknown counts as data.
    pub(crate) async fn runs(&self, offset: u64) -> Result<Vec<Run>, Exit> {
        let left = self.size() - offset;
        match &self.medium {
            Medium::Local(local) => {
                let run = local
                    .run_at(offset)
                    .map_err(|error| self.failed("find the holes of", offset, &error))?;
                Ok(vec![run])
            }
            Medium::Remote(_, None) => Ok(vec![Run {
                length: left,
                zero: false,
            }]),
            Medium::Remote(client, Some(context)) => {
                let extents = client.block_status(offset, left, *context).await;
                let extents = extents.map_err(|error| {
                    Exit::request(&self.doing("ask for the block status", offset), &error)
                })?;
                // "base:allocation": bit 1 says that it reads as zeroes; a hole alone (bit 0) promises nothing.
                Ok(extents
                    .iter()
                    .map(|extent| Run {
                        length: extent.length,
                        zero: extent.status & 2 != 0,
                    })
                    .collect())
            }
        }
    }

    fn failed(&self, verb: &str, offset: u64, error: &std::io::Error) -> Exit {
        Exit::failed(format!("{}: {error}", self.doing(verb, offset)))
    }

    fn doing(&self, verb: &str, offset: u64) -> String {
        format!("can't {verb} {} at {offset}", self.name)
    }
}

impl Medium {
    async fn connect(
        text: &str,
        traffic: &Traffic,
        patience: Patience,
        give_up_after: Duration,
    ) -> Result<Medium, Exit> {
        let target = arguments::target(text)?;
        let allocation = "base:allocation".to_owned();
        let options = ClientOptions {
            connection: Options {
                contexts: vec![allocation.clone()],
                ..patience.options()
            },
            connections: usize::from(traffic.connections),
            give_up_after,
            ..ClientOptions::default()
        };
        let client = Client::connect(target.clone(), options)
            .await
            .map_err(|error| Exit::open(&target, &error))?;
        let context = client.export().context(&allocation);
        Ok(Medium::Remote(client, context))
    }
}
