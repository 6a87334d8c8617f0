#!/usr/bin/env bash
# Breaks the mirror engine on purpose, one mistake at a time, and demands that the simulation notices each.
#
#   scripts/break-engine.sh [LETTER...]     all mistakes, or those whose names begin with one of the letters
#
#   SCHEDULES=100000   how many schedules a mistake may survive before it counts as missed
#   CARGO_TARGET_DIR   where to build; kept between runs, a folder of its own by default
#
# The sources are copied to a temporary folder and changed there. A change that does not fit the sources any more, or
# does not compile, is an error: this script has to be kept up to date with the engine. Exit 0 only if the unchanged
# engine passes and every mistake is caught.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
schedules=${SCHEDULES:-100000}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/break-engine}
# Quick to build again and again, and still quick to run.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=8
export RUST_BACKTRACE=0

copy=$(mktemp -d) || exit 1
trap 'rm -rf "$copy"' EXIT
cp Cargo.toml Cargo.lock "$copy" || exit 1
for crate in */Cargo.toml; do
    cp -a "${crate%/*}" "$copy" || exit 1
done
engine=netraid/src/raid1/engine
# Only what the engine needs: the rest of the crate has no part in this and would have to be built each time.
rm -rf "$copy"/netraid/src/{bin,main.rs} "$copy"/netraid/tests/{md,mirror,golden} "$copy"/netraid/{benches,examples}
printf '//! The engine alone.\npub use md_format as md;\npub mod mirror;\npub mod raid1;\n' >"$copy/netraid/src/lib.rs"
printf '//! The engine alone.\npub mod chunks;\npub mod engine;\npub mod intent;\npub mod leg;\n' \
    >"$copy/netraid/src/raid1.rs"

fail() {
    echo "break-engine: $*" >&2
    exit 1
}

# change FILE OLD NEW: replaces the only place where FILE says OLD (any amount of white space is one space there).
change() {
    local file=$1
    OLD=$2 NEW=$3 perl -0777 -i -pe '
        BEGIN { $old = join "\\s+", map { quotemeta } split " ", $ENV{OLD}; $count = 0 }
        $count += s/$old/$ENV{NEW}/g;
        END { exit($count == 1 ? 0 : 1) }
    ' "$copy/$file" || fail "'$2' is not, or not only once, in $file: bring this script up to date"
}

simulate() {
    (cd "$copy" && NETRAID_SCHEDULES=$1 cargo test --quiet --locked --release -p netraid --test simulation \
        -- --nocapture) >"$copy/log" 2>&1
}

wanted=("$@")
missed=0
tried=0
width=62
# mistake NAME FILE OLD NEW [FILE OLD NEW]...
mistake() {
    local name=$1 file caught after
    shift
    if [ ${#wanted[@]} -gt 0 ] && ! printf '%s\n' "${wanted[@]}" | grep -qxF -- "${name%%[0-9 ]*}"; then
        return
    fi
    tried=$((tried + 1))
    local changed=()
    while [ $# -ge 3 ]; do
        file=$1
        if ! printf '%s\n' "${changed[@]}" | grep -qxF -- "$file"; then
            cp "$copy/$file" "$copy/$file.kept"
            changed+=("$file")
        fi
        change "$file" "$2" "$3"
        shift 3
    done
    if simulate "$schedules"; then
        caught='MISSED'
        after=$schedules
        missed=$((missed + 1))
    else
        after=$(sed -n 's/^schedule [0-9]* failed after \([0-9]*\) schedules.*/\1/p' "$copy/log" | head -n 1)
        if [ -n "$after" ]; then
            caught=$(grep -A1 "panicked at" "$copy/log" | grep -v "panicked at\|^--" | head -n 1)
        else
            caught=$(tail -n 1 <(grep -v '^ *$\|^note\|^error: test failed' "$copy/log"))
            grep -q '^error' "$copy/log" && { cat "$copy/log" >&2; fail "the mistake '$name' does not compile"; }
            after=$schedules
        fi
    fi
    printf '%-*s | %8s | %s\n' "$width" "$name" "$after" "${caught:0:150}"
    for file in "${changed[@]}"; do
        # With a new time, or cargo takes the build of the mistake for up to date.
        cp "$copy/$file.kept" "$copy/$file"
    done
}

# As many as make test runs: with fewer, chance alone can exceed the bounds that are parts of a thousand.
simulate 20000 || { cat "$copy/log" >&2; fail 'the engine as it is fails the simulation'; }
printf '%-*s | %8s | %s\n' "$width" 'mistake' 'after' 'caught by'

mistake 'a1 a bit is dropped after the first leg is flushed' \
    $engine/clean.rs 'if !cycle.waiting.remove(&flush) || !cycle.waiting.is_empty() {' \
    'if !cycle.waiting.remove(&flush) {'
mistake 'a2 a bit is dropped although a leg still misses the chunk' \
    $engine/clean.rs 'quiet.subtract(&leg.missing);' ''
mistake 'a3 a bit is dropped although a leg is away' \
    $engine/lacks.rs 'for leg in &self.legs { chunks.subtract(&leg.lacks); }' ''
mistake 'a4 a bit is dropped although its chunk is being written' \
    netraid/src/raid1/intent.rs \
    'if self.recent.contains(chunk) || self.held.contains_key(&chunk) || !self.durable.contains(chunk)' \
    'if !self.durable.contains(chunk)' \
    $engine/lacks.rs 'self.intent.subtract_touched(&mut chunks);' ''
mistake 'b  overlapping writes are under way at once' \
    $engine/write.rs 'self.ranges.admit((), offset, length, job)' 'self.ranges.admit((), offset, length.min(0), job)'
mistake 'c1 a write is sent before its bit is durable' \
    $engine/write.rs 'if durable && self.commit.durable >= required {' \
    'if durable || self.commit.durable >= required {'
mistake 'c2 a write is sent before its generation is durable' \
    $engine/write.rs 'if durable && self.commit.durable >= required {' 'if durable {'
mistake 'd1 a write is answered before an expulsion is durable' \
    $engine/write.rs '_ if self.commit.durable >= self.commit.answer_from => Ok(Answer::Done),' \
    '_ if self.commit.durable <= u64::MAX => Ok(Answer::Done),'
mistake 'd2 a commit counts although its last leg in sync is gone' \
    $engine/commit.rs 'if self.halted.is_some() { return; } let Some(under_way) = &mut self.commit.under_way' \
    'let Some(under_way) = &mut self.commit.under_way'
mistake 'e1 the bits of a returning leg are not merged' \
    $engine/attach.rs 'Some(image) => Some(image.dirty.clone()),' 'Some(_) => None,'
mistake 'e2 a returning leg misses only what is dirty here' \
    $engine/attach.rs 'leg.needs_whole_bitmap = true; self.abandon_cleaning();' 'self.abandon_cleaning();'
mistake 'f1 the resync copies without holding its range' \
    $engine/resync.rs 'self.admit(job, offset, length);' 'self.admit(job, offset, 0);'
mistake 'f2 copies to a leg that went away and came back count' \
    $engine/membership.rs 'self.forget_copies_to(slot);' ''
mistake 'g1 a flush reaches the local leg only' \
    $engine/clean.rs 'let waiting = self.slots_in(&[LegState::InSync, LegState::Finishing]);' \
    'let waiting = self.slots_in(&[LegState::InSync]).and([self.local].into_iter().collect());'
mistake 'g2 a flush does not reach a leg that is about to be in sync' \
    $engine/clean.rs 'let waiting = self.slots_in(&[LegState::InSync, LegState::Finishing]);' \
    'let waiting = self.slots_in(&[LegState::InSync]);'
mistake 'g3 a leg is in sync before its last flush' \
    $engine/resync.rs 'leg.state = LegState::Finishing;' 'leg.state = LegState::InSync;'
mistake 'h1 no generation is minted' \
    $engine/membership.rs 'if in_sync.is_empty() || self.members.without(in_sync).is_empty() {' \
    'if !in_sync.is_empty() || in_sync.is_empty() {'
mistake 'h2 a flush answered without a leg mints no generation' \
    $engine/clean.rs 'self.mint_if_needed();' ''
mistake 'h3 a source that was left behind goes on in its generation' \
    $engine/attach.rs 'members: Slot::first(shape.slots).collect(),' \
    'members: { let away = engine_away; Slot::first(shape.slots).filter(|slot| away[slot.number()] == Generation::NONE).collect() },' \
    $engine/attach.rs 'generations.returned(local.number());' \
    'generations.returned(local.number()); let engine_away = generations.away;'
mistake 'i1 a leg being resynced is not marked' \
    $engine/attach.rs 'record.consistent = same && self.intent.dirty().is_empty();' '' \
    $engine/attach.rs 'if unmarked {' 'if unmarked && slot.number() > 100 {'
mistake 'i2 a leg is marked before another says that it is in sync' \
    $engine/commit.rs 'if in_sync.contains(self.local) { [self.local].into_iter().collect() } else { in_sync }' \
    '[self.local].into_iter().collect()'
mistake 'i3 a leg that was equal is copied to before it is marked' \
    $engine/copy.rs 'leg.record.consistent = false; leg.needs_whole_bitmap = true; leg.state = LegState::Attaching;' \
    'leg.state = LegState::Resync;'
mistake 'j1 a failed flush of the last leg in sync is kept quiet' \
    $engine/clean.rs 'self.untold = Some(failure);' ''
mistake 'j2 what a failed flush lost is not copied again' \
    $engine/clean.rs 'self.copy_again(&suspects);' '_ = suspects;'
mistake 'j3 a flush that does not count any more may fail unnoticed' \
    $engine/clean.rs 'self.cleaning.under_way = None; }' \
    'self.cleaning.under_way = None; self.operations.retain(|_, operation| operation.purpose != Purpose::CleanFlush); }'
mistake 'o1 what is in a send buffer leaves in any order' \
    netraid/src/raid1/engine.rs 'slot, command, order, });' \
    'slot, command, order: order.filter(|_| !matches!(purpose, Purpose::Job(_))), });'
mistake 'o2 a bit is dropped although a leg has only received what it covers' \
    $engine/clean.rs 'let waiting = self .receiving() .iter()' \
    'let waiting = self.receiving().without(self.trailing()).iter()'
mistake 'o3 a bit is dropped although what it covers was only answered' \
    $engine/clean.rs 'let waiting = self .receiving() .iter()' \
    'let waiting = self.receiving().without(self.trailing()).iter()' \
    $engine/write.rs 'write.answered = true; let (request, ticket)' \
    'write.answered = true; write.holding = false; let range = (write.offset, write.length); let chunks = self.shape.chunks_of(range.0, range.1); self.intent.release(chunks); let Some(Job::Write(write)) = self.jobs.get_mut(&job) else { return; }; let (request, ticket)'
mistake 'o4 a flush is answered before the legs that are waited for have flushed' \
    $engine/clean.rs '|| !flush.waiting.without(trailing).is_empty() || flush.done.and(reached).is_empty()' \
    '|| reached.is_empty()'
mistake 'o5 a flush is no part of the stream' \
    $engine/clean.rs 'let waiting = self.slots_in(&[LegState::InSync, LegState::Finishing]);' \
    'let waiting = self.slots_in(&[LegState::InSync, LegState::Finishing]).without(self.trailing());'
mistake 'o6 a read overtakes what is in the send buffer' \
    $engine/stream.rs 'if candidates.contains(self.local) { return Some(self.local); } let direct = candidates.without(self.settings.asynchronous);' \
    'let direct = candidates.and(self.settings.asynchronous);' \
    netraid/src/raid1/engine.rs 'effects.push(Effect::Leg {' \
    'let order = order.filter(|_| !matches!(command, Command::Read { .. })); effects.push(Effect::Leg {'
mistake 'o7 the bits of a chunk reach a leg in any order' \
    $engine/commit.rs 'slot, update, order, });' 'slot, update, order: order.filter(|_| purpose != Purpose::Trailing), });'
mistake 'o8 an answer that waits for a commit is given though who had all of it is gone' \
    $engine/stream.rs 'self.commit.durable < self.commit.answer_from' \
    'self.commit.durable < self.commit.answer_from && self.commit.version == 0'
mistake 'o9 a leg that had not all of its buffer goes in the same generation' \
    $engine/stream.rs 'Job::Write(_) => true,' 'Job::Write(write) => !write.answered(),' \
    $engine/write.rs 'impl WriteJob {' 'impl WriteJob { pub(super) fn answered(&self) -> bool { self.answered }'
mistake 'q1 what is written while a leg is away is not noted for it' \
    $engine/lacks.rs 'for leg in &mut self.legs { for chunk' \
    'for leg in self.legs.iter_mut().filter(|leg| leg.state != LegState::Absent) { for chunk'
mistake 'q2 a flush counts for a leg that came after it had begun' \
    $engine/lacks.rs 'for slot in legs.iter() {' 'for slot in legs.or(self.receiving()).iter() {'
mistake 'q3 a leg that was not in sync comes back as it went' \
    $engine/lacks.rs 'self.can_take_over(slot).then_some(Departure {' 'Some(Departure {' \
    $engine/lacks.rs 'image.is_consistent() && image.record.generations.current == departure.generation' 'let _ = departure; true'
mistake 'q4 a leg that comes back gets what was written last alone' \
    $engine/attach.rs 'lacks: dirty.clone(),' 'lacks: ChunkSet::empty(chunks),'
mistake 'q5 a leg that is taken away shares its generation with what follows' \
    $engine/membership.rs 'self.expel(slot, reason, effects); self.mint_if_needed();' 'self.expel(slot, reason, effects);'
mistake 'k  a stopped mirror still writes metadata' \
    netraid/src/raid1/engine.rs 'if self.stopped { return refuse(event, effects); }' ''
mistake 'l1 blocks are taken for equal although their digests differ' \
    $engine/compare.rs 'if one.status != other.status {' 'if one.status > other.status {'
mistake 'l2 blocks of which no digest was told are taken for equal' \
    $engine/compare.rs 'if at < end { runs.push((at, end - at)); }' ''
mistake 'l3 a leg that told no digests is taken for equal' \
    $engine/compare.rs '_ => return vec![piece],' '_ => {}'
mistake 'l4 only the first run that differs is copied' \
    $engine/copy.rs '(copy.run, copy.runs) = (run, runs);' '(copy.run, copy.runs) = (run, Vec::new());'
mistake 'm1 a verify compares without holding its range' \
    $engine/verify.rs 'self.admit(job, piece.0, piece.1);' 'self.admit(job, piece.0, 0);'
mistake 'm2 a verify leaves out every other piece' \
    $engine/verify.rs 'verify.next = end;' 'verify.next = end + most;'
mistake 'm3 the mark of a difference is dropped like others' \
    $engine/clean.rs 'quiet.subtract(&leg.suspect);' ''
mistake 'm4 a difference is told before its mark is durable' \
    $engine/verify.rs 'let marked = durable >= verify.required || halted;' 'let marked = verify.required <= u64::MAX || durable > 0 || halted;'
mistake 'm5 a difference is told and not marked' \
    $engine/verify.rs 'self.intent.merge(&chunks);' ''
mistake 'p1 what a failed write left is read from the leg that failed it' \
    $engine/io_errors.rs 'let known = |slot: &Slot| !self.is_unknown(*slot, offset, length);' 'let known = |_: &Slot| true;'
mistake 'p2 the mark of a failed write is dropped like others' \
    $engine/clean.rs 'for chunk in self.unknown_chunks().into_iter().flatten() { quiet.remove(chunk); }' ''
mistake 'p3 a repair does not hold its range' \
    $engine/io_errors.rs 'self.admit(job, offset, length);' 'self.admit(job, offset, 0);'
mistake 'p4 a repair writes before its bits are durable' \
    $engine/io_errors.rs 'if durable && self.commit.durable >= required {' 'if durable || self.commit.durable <= required {'
mistake 'p5 the array is called clean although a write failed on a leg' \
    $engine/clean.rs 'self.has_suspects() || self.has_unknown()' 'self.has_suspects()'
mistake 'p6 a resync copies what a failed write left' \
    $engine/copy.rs 'false => known,' 'false => left,'
mistake 'p7 the application is not told of a write that failed on a leg that is kept' \
    $engine/write.rs 'if let Some(Job::Write(write)) = self.jobs.get_mut(&job) { write.refused = true; } } else if' '} else if'
mistake 'p8 a repair that failed counts as done' \
    $engine/io_errors.rs 'let Err(failure) = outcome else {' 'let Err(failure) = outcome.and(Err::<Answer, Failure>(Failure::new(Errno::EIO, ""))).or_else(|failure| if failure.why.is_empty() { Err(failure) } else { Ok(Answer::Done) }) else {'
mistake 'r1 what waits for metadata is answered although requests are held back' \
    $engine/write.rs 'if self.holds_back() { return; } let durable' 'let durable'
mistake 'r2 what is done is answered although a leg has left that has to have it' \
    $engine/write.rs 'self.commit.durable >= self.commit.answer_from && !self.holds_back()' 'self.commit.durable >= self.commit.answer_from'
mistake 'r3 a guard forgets the legs before' \
    $engine/hold.rs 'false => self.held.guard,' 'false => SlotSet::EMPTY,'
mistake 'r4 what was held back is never taken up again' \
    $engine/hold.rs 'self.take_up_held(effects); return;' 'return;'
mistake 'r5 flushes that were held back do not hear of a loss' \
    $engine/hold.rs '(Some(failure), Command::Flush) => effects.push(Effect::Answer { request, outcome: Err(failure.clone()), }),' ''
mistake 'n1 a piece that failed stays on the way' \
    $engine/resync.rs 'self.on_the_way = self.on_the_way.saturating_sub(length); if !written { return; }' \
    'if !written { return; } self.on_the_way = self.on_the_way.saturating_sub(length);'
mistake 'n2 a resync that is behind its lower bound begins more than there is memory for' \
    $engine/resync.rs 'pieces if pieces >= self.settings.resync_window => return Some(Limit::Legs),' \
    'pieces if pieces >= self.settings.resync_window && !behind => return Some(Limit::Legs),'
mistake 'n3 a resync that is held begins pieces' \
    $engine/resync.rs 'if self.resync.paused || self.stopping {' 'if self.stopping {'
mistake 'n4 a controller that wants nothing on the way starves the resync' \
    $engine/resync.rs '0 => return None,' '0 if self.resync.pace.is_none() => return None,' \
    $engine/resync.rs 'window.bytes);' 'window.bytes / 2);'
mistake 'n5 a rate that was exceeded once is never made up for' \
    $engine/resync.rs 'if gained > 0 {' 'if gained > 0 && self.bytes >= 0 {'
mistake 's1 who was left behind is never let go' \
    $engine/ahead.rs 'behind.waiting.is_empty() && behind.until <= now' 'behind.waiting.is_empty() && behind.until == 0 && now > 0'
mistake 's2 who is left behind still counts as in sync' \
    $engine/membership.rs 'leg.state = LegState::Absent; leg.reason' 'if leg.behind.is_none() { leg.state = LegState::Absent; } leg.reason'
mistake 's3 what somebody lacked who is left behind is forgotten' \
    $engine/ahead.rs 'self.depart(slot, reason, effects);' 'self.depart(slot, reason, effects); self.legs[slot.number()].lacks.clear();'

[ "$tried" -gt 0 ] || fail "no mistake is called ${wanted[*]}"
echo "$((tried - missed)) of $tried mistakes caught"
[ "$missed" = 0 ]
