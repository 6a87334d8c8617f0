//! Metadata on its way to a leg: several writes, each durable before the next begins.

use bytes::Bytes;

use super::*;

impl Mirror {
    /// Writes metadata step by step, each durable before the next.
    pub(super) fn to_metadata(
        self: &Arc<Self>,
        operation: OperationId,
        slot: Slot,
        update: &Update,
    ) {
        let Some(attached) = self.attached(slot) else {
            return self.done(
                operation,
                Err(Failure::new(Errno::EIO, "the leg is not connected")),
            );
        };
        let writes = lock(&attached.metadata).writes(update, self.local);
        match writes {
            Ok(writes) => self.next_write(operation, attached.link.clone(), writes.into()),
            Err(error) => self.done(operation, Err(Failure::new(Errno::EIO, error.to_string()))),
        }
    }

    /// The same to a leg that keeps order: each step is durable before the next begins, so all leave at once.
    pub(super) fn to_metadata_in_order(
        self: &Arc<Self>,
        operation: OperationId,
        slot: Slot,
        order: Order,
        update: Update,
        touched: &mut Vec<Link>,
    ) {
        let Some(attached) = self.attached(slot) else {
            return self.done(
                operation,
                Err(Failure::new(Errno::EIO, "the leg is not connected")),
            );
        };
        let (mirror, leg) = (Arc::clone(self), Arc::clone(&attached));
        let send = Box::new(move || {
            let writes = lock(&leg.metadata).writes(&update, mirror.local);
            let writes = match writes {
                Ok(writes) => writes,
                Err(error) => {
                    let failure = Failure::new(Errno::EIO, error.to_string());
                    return mirror.done(operation, Err(failure));
                }
            };
            let left = Arc::new(Mutex::new((writes.len(), None)));
            if writes.is_empty() {
                mirror.done(operation, Ok(Answer::Done));
            }
            for (offset, data) in writes {
                let (mirror, left) = (Arc::clone(&mirror), Arc::clone(&left));
                let fua = true;
                let completion = Completion::new(move |outcome| {
                    let (last, failure) = {
                        let mut left = lock(&left);
                        left.0 -= 1;
                        if let Err(failure) = outcome {
                            left.1.get_or_insert(failure);
                        }
                        (left.0 == 0, left.1.clone())
                    };
                    if last {
                        let outcome = failure.map_or(Ok(Answer::Done), Err);
                        mirror.done(operation, outcome);
                    }
                });
                leg.link
                    .submit(Command::Write { offset, data, fua }, completion);
            }
        });
        lock(&attached.sequence).send(order, send);
        touch(touched, &attached.link);
    }

    fn next_write(
        self: &Arc<Self>,
        operation: OperationId,
        link: Link,
        mut writes: VecDeque<(u64, Bytes)>,
    ) {
        let Some((offset, data)) = writes.pop_front() else {
            return self.done(operation, Ok(Answer::Done));
        };
        let (mirror, then) = (Arc::clone(self), link.clone());
        let completion = Completion::new(move |outcome| match outcome {
            Ok(_) => mirror.next_write(operation, then, writes),
            Err(failure) => mirror.done(operation, Err(failure)),
        });
        link.submit(
            Command::Write {
                offset,
                data,
                fua: true,
            },
            completion,
        );
        link.kick();
    }
}
