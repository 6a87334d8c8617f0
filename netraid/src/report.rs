//! Makes the status document of a running mirror.

use crate::array::NodeState;
use crate::raid1::engine::{Engine, Limit, Progress, Verify};
use crate::raid1::keeper::Keepers;
use crate::raid1::leg::{LegState, Slot};
use crate::raid1::running::{Mirror, VerifyTimes};
use crate::status::{
    LegStatus, ResyncStatus, SCHEMA, Status, VerifyDifference, VerifyStatus, limited_by, word,
};

/// The status of `mirror`, whose local leg is at `disk`.
pub fn status(
    tag: &str,
    disk: &str,
    uris: &[String],
    mirror: &Mirror,
    keepers: &Keepers,
) -> Status {
    mirror.view(|view| {
        let engine = view.engine;
        let shape = engine.shape();
        let dirty = engine.dirty();
        let node = |slot: Slot| keepers.names()[slot.number()].to_string();
        Status {
            schema: SCHEMA.into(),
            tag: tag.into(),
            node: node(engine.local()),
            uris: uris.to_vec(),
            backend: "embedded".into(),
            array_uuid: keepers.array().to_string(),
            size: shape.size,
            chunk: shape.chunk,
            chunks: shape.chunks(),
            dirty_chunks: dirty.count(),
            dirty_bytes: shape.bytes_under(dirty),
            events: engine.events(),
            array_state: if engine.is_clean() { "clean" } else { "active" }.into(),
            generation: format!("{:?}", engine.generations().current),
            halted: engine.halted().map(str::to_owned),
            legs: Slot::first(shape.slots)
                .map(|slot| leg(slot, node(slot), disk, engine, keepers))
                .collect(),
            resync: engine.progress().map(|progress| resync(&progress)),
            last_resync: view.last_resync.clone(),
            verify: engine
                .verify()
                .map(|verify| verify_status(verify, view.verify_times, view.verifies, &node)),
        }
    })
}

fn leg(slot: Slot, node: String, disk: &str, engine: &Engine, keepers: &Keepers) -> LegStatus {
    let local = slot == engine.local();
    let (location, problem) = if local {
        (disk.to_owned(), None)
    } else {
        keepers.target(slot)
    };
    let state = engine.state(slot);
    let reason = problem
        .filter(|_| state == LegState::Absent)
        .or_else(|| engine.reason(slot).map(str::to_owned));
    let split = reason
        .as_deref()
        .is_some_and(|reason| reason.starts_with("split brain"));
    let paused = engine.progress().is_some_and(|progress| progress.paused);
    let connected = matches!(&reason, Some(reason) if reason.contains("disk is blank"));
    let left_behind = engine.is_behind(slot);
    let status = match state {
        LegState::Absent if left_behind => word::OUT_OF_SYNC,
        LegState::InSync if local => word::SOURCE,
        LegState::InSync if engine.can_take_over(slot) => word::TARGET,
        // For the moment until its disk says so too.
        LegState::InSync => word::RESYNCING,
        LegState::Resync | LegState::Attaching | LegState::Finishing if paused => word::PAUSED,
        LegState::Resync | LegState::Attaching | LegState::Finishing => word::RESYNCING,
        LegState::Absent if split => word::SPLIT_BRAIN,
        LegState::Absent if local || connected => word::OUT_OF_SYNC,
        LegState::Absent => word::UNKNOWN,
    };
    let disk_state = match state {
        LegState::Absent if left_behind => "Consistent",
        LegState::InSync => "UpToDate",
        LegState::Resync | LegState::Attaching | LegState::Finishing => "Inconsistent",
        LegState::Absent if local => "Outdated",
        LegState::Absent => "DUnknown",
    };
    let io = engine.io_errors(slot);
    LegStatus {
        slot: slot.number(),
        node,
        local,
        location,
        status: status.into(),
        disk: disk_state.into(),
        reason,
        missing_bytes: match state {
            LegState::Absent => engine.lacks(slot),
            _ => engine.missing(slot),
        },
        differing_bytes: engine.suspect(slot),
        io_errors: io.errors,
        repaired_bytes: io.repaired,
        failed_bytes: io.failed,
        damaged: keepers.damaged(slot),
        no_digests: engine.no_digests(slot).map(str::to_owned),
        behind_bytes: engine
            .behind(slot)
            .filter(|_| state != LegState::Absent || left_behind),
        left_behind,
    }
}

fn resync(progress: &Progress) -> ResyncStatus {
    let done = progress.copied;
    let whole = done + progress.left;
    let since_it_began = done
        .saturating_mul(1000)
        .checked_div(progress.elapsed)
        .unwrap_or(0);
    let speed = progress.recent.unwrap_or(since_it_began);
    let limit = match progress.limit {
        _ if progress.paused => limited_by::PAUSED,
        Limit::Legs => limited_by::LEGS,
        Limit::Rate => limited_by::RATE,
        Limit::Application => limited_by::APPLICATION,
        Limit::Delay => limited_by::DELAY,
    };
    ResyncStatus {
        copied: done,
        sent: progress.sent,
        compared: progress.compared,
        equal: progress.equal,
        left: progress.left,
        percent: if whole == 0 {
            100.0
        } else {
            done as f64 * 100.0 / whole as f64
        },
        speed,
        time_left_ms: progress.left.saturating_mul(1000).checked_div(speed),
        paused: progress.paused,
        limited_by: Some(limit.into()),
        delay_ms: progress.delay,
    }
}

fn verify_status(
    verify: &Verify,
    times: VerifyTimes,
    number: u64,
    node: &impl Fn(Slot) -> String,
) -> VerifyStatus {
    let order = &verify.order;
    let whole = order.stop.saturating_sub(order.start);
    let differences = verify.differences.iter().map(|of| VerifyDifference {
        node: node(of.slot),
        offset: of.offset,
        length: of.length,
    });
    VerifyStatus {
        number,
        state: match &verify.ended {
            None => "running",
            Some(Ok(())) => "done",
            Some(Err(_)) => "interrupted",
        }
        .into(),
        why: match &verify.ended {
            Some(Err(why)) => Some(why.clone()),
            _ => None,
        },
        targets: order.targets.iter().map(node).collect(),
        start: order.start,
        stop: order.stop,
        position: verify.position,
        checked: verify.checked,
        percent: match whole {
            0 => 100.0,
            _ => verify.checked as f64 * 100.0 / whole as f64,
        },
        speed: verify
            .checked
            .saturating_mul(1000)
            .checked_div(verify.elapsed)
            .unwrap_or(0),
        rate: order.rate,
        differing: verify.differing,
        differences: differences.collect(),
        more_differences: verify.more,
        repair: order.repair,
        began_ms: times.began,
        ended_ms: times.ended,
        elapsed_ms: verify.elapsed,
    }
}

/// How each node's leg takes part, from its `status`.
pub fn nodes(status: &Status, mirror: &Mirror) -> Vec<NodeState> {
    mirror.view(|view| {
        let legs = status.legs.iter();
        legs.map(|leg| {
            let percent = Slot::new(leg.slot).and_then(|slot| view.engine.percent(slot));
            NodeState::of(leg, percent)
        })
        .collect()
    })
}
