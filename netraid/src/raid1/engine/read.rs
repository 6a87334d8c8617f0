//! Reads and what else changes nothing: answered by the local leg, or by another leg in sync when that one fails; then
//! what it failed is written to it again.

use super::*;

/// One read, status query or cache hint of the application.
#[derive(Debug)]
pub(super) struct ReadJob {
    request: RequestId,
    command: Command,
    tried: SlotSet,
}

impl Engine {
    pub(super) fn start_read(
        &mut self,
        request: RequestId,
        command: Command,
        effects: &mut Vec<Effect>,
    ) {
        let job = self.new_job(Job::Read(ReadJob {
            request,
            command,
            tried: SlotSet::EMPTY,
        }));
        self.try_read(job, Failure::new(Errno::EIO, "no leg is in sync"), effects);
    }

    /// Asks the best leg that has not failed yet, or gives up with `failure`.
    fn try_read(&mut self, job: JobId, failure: Failure, effects: &mut Vec<Effect>) {
        let Some(Job::Read(read)) = self.jobs.get_mut(&job) else {
            return;
        };
        let tried = read.tried;
        let candidates = self
            .legs
            .iter()
            .enumerate()
            .filter(|(_, leg)| leg.state == LegState::InSync)
            .filter_map(|(number, _)| Slot::new(number))
            .collect::<SlotSet>()
            .without(tried);
        let (request, range) = (read.request, read.command.range());
        let candidates = match range {
            Some((offset, length)) => self.readable(candidates, offset, length),
            None => candidates,
        };
        let Some(slot) = self.best_to_read(candidates) else {
            self.jobs.remove(&job);
            effects.push(Effect::Answer {
                request,
                outcome: Err(failure),
            });
            return;
        };
        let Some(Job::Read(read)) = self.jobs.get_mut(&job) else {
            return;
        };
        read.tried.insert(slot);
        let command = read.command.clone();
        self.send(slot, Purpose::Job(job), command, effects);
    }

    pub(super) fn read_operation_done(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Job::Read(read)) = self.jobs.get(&job) else {
            return;
        };
        let outcome = match (&read.command, outcome) {
            (Command::Read { length, .. }, Ok(Answer::Data(data)))
                if data.len() == *length as usize =>
            {
                Ok(Answer::Data(data))
            }
            (Command::Read { .. }, Ok(_)) => {
                Err(Failure::new(Errno::EIO, "its answer has the wrong length"))
            }
            (_, outcome) => outcome,
        };
        match outcome {
            Ok(answer) => {
                let request = read.request;
                self.jobs.remove(&job);
                effects.push(Effect::Answer {
                    request,
                    outcome: Ok(answer),
                });
            }
            Err(failure) => {
                let data = matches!(read.command, Command::Read { .. });
                if data && let Some(range) = read.command.range() {
                    self.read_failed(slot, range, ("a read", &failure), effects);
                }
                self.try_read(job, failure, effects);
            }
        }
    }
}
