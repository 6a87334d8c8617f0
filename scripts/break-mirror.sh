#!/usr/bin/env bash
# Breaks the supervisor's state machine on purpose, one mistake at a time, and demands that its tests notice each.
#
#   scripts/break-mirror.sh [LETTER...]     all mistakes, or those whose names begin with one of the letters
#
#   SCHEDULES=400000   how many random schedules a mistake may survive before it counts as missed
#   CARGO_TARGET_DIR   where to build; kept between runs, a folder of its own by default
#
# The sources are copied to a temporary folder and changed there. A change that does not fit the sources any more, or
# does not compile, is an error: this script has to be kept up to date with the machine. Each mistake is first looked for
# with random schedules, whose seed is told; what they do not notice is looked for with the scenarios, and then with the
# check of the order of actions. Exit 0 only if the unchanged machine passes and every mistake is caught.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
schedules=${SCHEDULES:-400000}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/break-mirror}
export RUST_BACKTRACE=0

copy=$(mktemp -d) || exit 1
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/src" "$copy/tests"
cp -a netraid/src/mirror netraid/src/mirror.rs "$copy/src" || exit 1
cp -a netraid/tests/supervisor "$copy/tests" || exit 1
mkdir "$copy/tests/simulation"
cp -a netraid/tests/simulation/{random,runner}.rs "$copy/tests/simulation" || exit 1
printf '//! The state machine alone.\npub mod mirror;\n' >"$copy/src/lib.rs"
cat >"$copy/Cargo.toml" <<'TOML'
[package]
name = "netraid"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
serde = { version = "1", features = ["derive"] }
[profile.dev]
opt-level = 2
debug = 0
TOML

cp Cargo.lock "$copy" || exit 1

fail() {
    echo "break-mirror: $*" >&2
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

# test NAME: runs the tests of that name.
run() {
    (cd "$copy" && NETRAID_SCHEDULES=$schedules cargo test --quiet --offline --test supervisor -- --nocapture "$1") \
        >"$copy/log" 2>&1
}

wanted=("$@")
missed=0
tried=0
mistake() {
    local name=$1 file seed caught by
    shift
    if [ ${#wanted[@]} -gt 0 ] && ! printf '%s\n' "${wanted[@]}" | grep -qxF -- "${name%%[0-9 ]*}"; then
        return
    fi
    tried=$((tried + 1))
    local changed=()
    while [ $# -ge 3 ]; do
        file=src/mirror/$1
        if ! printf '%s\n' "${changed[@]}" | grep -qxF -- "$file"; then
            cp "$copy/$file" "$copy/$file.kept"
            changed+=("$file")
        fi
        change "$file" "$2" "$3"
        shift 3
    done
    if ! run every_schedule; then
        grep -q '^error\[\|^error: could not compile' "$copy/log" && {
            cat "$copy/log" >&2
            fail "the mistake '$name' does not compile"
        }
        seed=$(sed -n 's/^schedule \([0-9]*\) failed after.*/\1/p' "$copy/log" | head -n 1)
        by=${seed:+seed $seed}
        caught=$(grep -A1 "panicked at" "$copy/log" | grep -v "panicked at\|^--" | head -n 1)
    elif ! run every_scenario; then
        by='scenario'
        caught=$(sed -n 's/^failed: //p; s/.*failed: \[/[/p' "$copy/log" | head -n 1)
    elif ! run what_is_durable; then
        by='order'
        caught=$(grep -A1 "panicked at" "$copy/log" | grep -v "panicked at\|^--" | head -n 1)
    else
        by=MISSED
        caught=
        missed=$((missed + 1))
    fi
    printf '%-66s | %-12s | %s\n' "$name" "$by" "${caught:0:120}"
    for file in "${changed[@]}"; do
        # With a new time, or cargo takes the build of the mistake for up to date.
        cp "$copy/$file.kept" "$copy/$file"
    done
}

kept=$schedules
schedules=5000
run every_ || { cat "$copy/log" >&2; fail 'the machine as it is fails its tests'; }
schedules=$kept
printf '%-66s | %-12s | %s\n' 'mistake' 'caught by' 'which says'

mistake 'a1 a node half resynced goes into service' \
    machine/service.rs '() if !memory.consistent => Some(Refusal::Inconsistent),' ''
mistake 'a2 a node that its source left goes into service' \
    machine/service.rs '.or_else(|| memory.outdated.then_some(Refusal::Outdated))' ''
mistake 'a3 after a restart a node does not ask those that may be newer' \
    machine/service.rs 'false => self.memory.in_sync.and(self.claims),' 'false => self.claims,'
mistake 'a4 a target believes after its restart what it was told before' \
    machine.rs 'Boot::Idle => self.memory.fresh = false,' 'Boot::Idle => {}'
mistake 'a5 a node does not look whether a peer is newer' \
    machine/service.rs '() => self .better_peer() .or_else' '() => None.or_else'
mistake 'a6 a claim of a peer that went away is forgotten' \
    machine/service.rs 'true => self.claims.and(self.hearsay()),' 'true => NodeSet::NONE,'
mistake 'o1 a node that was marked as outdated forgets it when older news come' \
    machine/outdate.rs 'if self.accepted.take().is_some() { out.push(Action::Accept(None)); }' ''
mistake 'o2 a node that wrote alone is outdated for one that did not' \
    machine/outdate.rs 'Some(asker) if newer(asker) => Some(NotOutdated::NewerThan(asker)),' ''
mistake 'o3 a node that is about to go into service is outdated' \
    machine/outdate.rs 'Service::In | Service::Starting | Service::Stopping => { return Some(NotOutdated::InService); } Service::Out => {}' '_ => {}'
mistake 'n1 a source answers before its lost target was fenced' \
    machine/fencing.rs 'first.push(Action::Guard { members: guard, only: true, });' 'first.push(Action::Guard { members: NodeSet::NONE, only: true, });'
mistake 'n2 a node goes into service without fencing those that it can not reach' \
    machine/fencing.rs 'starts: !force && self.settings.fencing != Fencing::DontCare,' 'starts: false,'
mistake 'n3 a node that was told that its peer is in service goes into service' \
    machine/fencing.rs 'FenceAnswer::Primary | FenceAnswer::Broken => false,' 'FenceAnswer::Primary | FenceAnswer::Broken => true,'
mistake 'n4 who was there at the start of a source is not waited for' \
    machine/fencing.rs 'self.memory.unfenced = may; self.fence.know = may;' ''
mistake 'n5 after a restart of its daemon a source forgets whom it waits for' \
    machine.rs 'self.service = Service::In; self.parents_up = true;' 'self.service = Service::In; self.parents_up = true; self.memory.unfenced = NodeSet::NONE;'
mistake 'b1 a split brain is resynced' \
    decision.rs '(Verdict::SplitBrain, "both written alone") => split("20", Extent::Partial),' \
    '(Verdict::SplitBrain, "both written alone") => row("20", by_id.rule, if own.running { Outcome::ToPeer(Extent::Partial) } else { Outcome::FromPeer(Extent::Partial) }),'
mistake 'b2 a peer with newer data is resynced by whoever is in service' \
    machine/targets.rs 'Outcome::FromPeer(_) => return Standing::Newer,' 'Outcome::FromPeer(_) => Extent::Partial,'
mistake 'b3 an order to discard covers whatever the node has later' \
    record.rs 'generation != Generation::NONE && self.discarded[node.slot()] == generation' \
    'generation != Generation::NONE && self.discarded[node.slot()] != Generation::NONE'
mistake 'b4 data can be given up while its source is in service' \
    machine/operator.rs 'Some(peer) if peer.running || peer.starting => Some(Refusal::StopFirst(node)),' '' \
    machine/operator.rs 'Some(peer) if peer.follows.is_some_and(|source| source != self.own()) => { Some(Refusal::StopFirst(peer.follows.unwrap_or(node))) }' ''
mistake 'b5 force discards what a peer may still get from another source' \
    machine/service.rs '&& conflict && peer.accepts.is_none_or(|source| source == self.own())' '&& conflict'
mistake 'c1 the bitmap of a returning leg is not merged' \
    machine/targets.rs 'Action::Merge(node),' ''
mistake 'c2 a blank leg gets only what is marked' \
    decision.rs '(_, "one just created") => pick("3", "2"),' \
    '(_, "one just created") => row("3", by_id.rule, if own.running { Outcome::ToPeer(Extent::Partial) } else { Outcome::FromPeer(Extent::Partial) }),'
mistake 'd1 a leg is added before its node agreed' \
    machine/targets.rs '() if accepted != Some(self.own()) => Some(Standing::NotAgreed),' ''
mistake 'd2 a node that goes into service still takes the writes of its source' \
    machine/hear.rs 'if self.service != Service::Out { return None; }' '' \
    machine/service.rs 'if self.accepted.take().is_some() { out.push(Action::Accept(None)); }' ''
mistake 'd3 a source does not notice that another took over' \
    machine/targets.rs 'self.look_for_successor(out);' ''
mistake 'd4 a target of an old agreement counts as in sync' \
    record.rs 'self.members.contains(node) && self.agreements[node.slot()] == agreement' \
    '{ _ = agreement; self.members.contains(node) }' \
    machine/hear.rs 'if self.leg(target.node) != Leg::Out && !agreed {' \
    'if self.leg(target.node) != Leg::Out && !agreed && agreement > target.agreement {'
mistake 'e1 the memory is made durable last' \
    machine.rs 'first.extend(set); if self.memory != known { first.push(Action::Persist); } first.extend(cleared);' \
    'first.extend(set); first.extend(cleared); if self.memory != known { out.push(Action::Persist); }'
mistake 'e2 flags are cleared before the memory is durable' \
    machine.rs 'first.extend(set); if self.memory != known { first.push(Action::Persist); } first.extend(cleared);' \
    'first.extend(cleared); first.extend(set); if self.memory != known { first.push(Action::Persist); }'
mistake 'e3 a node in sync is not remembered as one that may take over' \
    machine/targets.rs 'self.memory.in_sync = self.memory.in_sync.with(node);' ''
mistake 'f1 targets do not wait for the previous source' \
    machine/targets.rs '() if self.held().contains(node) => previous.map(Standing::WaitsForPrevious),' ''
mistake 'f2 who waited too long gets only what is marked' \
    machine/targets.rs 'self.memory.full = self.memory.full.and(self.held());' ''
mistake 'f3 the previous source is not resynced first' \
    machine/targets.rs 'self.first = Some(node);' ''
mistake 'f4 a crash counts as a clean stop' \
    machine.rs 'settled: match running || memory.was_source {' 'settled: match running {'
mistake 'g1 data_corrupt is not set' \
    machine/service.rs 'self.memory.data_corrupt = true;' ''
mistake 'g2 last_owner stays when another took over' \
    machine/hear.rs 'memory.outdated = true; memory.last_owner = false;' 'memory.outdated = true;' \
    machine/hear.rs 'memory.outdated = false; memory.last_owner = false;' 'memory.outdated = false;'
mistake 'g3 a failed leg is never tried again' \
    machine/targets.rs 'for peer in &mut self.peers { peer.failed = false; }' '' \
    machine/hear.rs 'self.peers[node.slot()].failed = false;' ''

mistake 'p1 a policy gives up who is in service' \
    policy.rs 'let must_stop = loser.is_some_and(|loser| (low_in && loser == low.node) || (high_in && loser == high.node));' \
    'let must_stop = false;'
mistake 'p2 each side takes itself for the first of the two' \
    policy.rs 'let (low, high) = match one.node < other.node { true => (one, other), false => (other, one), };' \
    'let (low, high) = (one, other);'
mistake 'p3 a policy that only one of the two has is used' \
    policy.rs '() if low.policies != text || high.policies != text => { return says("the two are configured differently", None); }' ''
mistake 'p4 what a policy gave up is forgotten when the roles change' \
    machine/hear.rs 'std::mem::replace(&mut self.memory.discarded[loser.slot()], current) != current' \
    'self.memory.discarded[loser.slot()] != current'
mistake 'p5 the one that wrote is given up for the one that did not' \
    policy.rs '(0, _) => ("it has written nothing", Some(low.node)), (_, 0) => ("it has written nothing", Some(high.node)),' \
    '(0, _) => ("it has written nothing", Some(high.node)), (_, 0) => ("it has written nothing", Some(low.node)),'
mistake 'p6 a leg that lost by a policy is added as if it had nothing of its own' \
    machine/targets.rs 'matches!(decision.row, "c" | "d" | "e" | "f")' 'matches!(decision.row, "c" | "e" | "f")'

mistake 'q1 the array waits for nobody but its own node' \
    machine/quorum.rs 'members: view.members, only: true,' 'members: NodeSet::of(own), only: true,'
mistake 'q2 a node goes into service that the newest view has left out' \
    machine/quorum.rs 'left_out.filter(|_| !seeking.force)' 'left_out.filter(|_| false)'
mistake 'q3 nobody but the node itself votes for its start' \
    machine/quorum.rs 'proposed.is_some_and(|view| self.votes(view) >= quorum.need)' 'proposed.is_some()'
mistake 'q4 a source goes on without a target before a majority knows' \
    machine/quorum.rs 'mine && view.members == target && self.votes(*view) >= quorum.need' 'mine && view.members == target'
mistake 'q5 a view is proposed without asking which is the newest' \
    machine/quorum.rs 'proposed.is_none() && self.promises(seeking.term) >= quorum.need' 'proposed.is_none()'
mistake 'q6 a source that was overtaken proposes views all the same' \
    machine/quorum.rs 'Some(newest) if !newest.members.contains(own) && newest.term.node != own => { overtaken = Some(Shortage::LeftOut(newest.term.node)); }' ''
mistake 'q7 the array is told too late that it waits for one more' \
    machine.rs 'let mut first = guards; first.extend(set);' 'let mut first = set; out.extend(guards);'
mistake 'q8 an attempt that failed leaves its view' \
    machine/quorum.rs 'self.propose(view.term, change, before.members, before.forced);' ''
mistake 'q9 what was answered by force is given up for a view' \
    decision.rs 'if newest.forced || own.vote.unvoted || peer.vote.unvoted {' 'if false {'
mistake 'qa a source waits for a bidder that is gone' \
    machine/quorum.rs '(Some(_), _) if outbid.is_some() && bids => { self.new_term(); }' ''
mistake 'qb who forgot what it voted for votes at once' \
    machine/quorum.rs 'if self.unreachable(quorum.nodes).is_empty() {' '{'
mistake 'qc an attempt that ended with its node leaves its view' \
    machine.rs 'self.withdraw(); match boot {' 'match boot {'
mistake 'qd a start that was voted for names no generation' \
    machine/service.rs 'voted: self.settings.quorum.is_some(),' 'voted: false,'
mistake 'qe two sources ask for votes in turns' \
    machine/quorum.rs 'newest.is_none_or(|view| view.members.contains(*node))' 'false && newest.is_none_or(|view| view.members.contains(*node))'
mistake 'qf what nobody answered keeps a majority from starting' \
    machine/service.rs 'conflicting.iter().filter(|node| !self.is_outvoted(*node));' 'conflicting.iter().filter(|_| true);'

[ "$tried" -gt 0 ] || fail "no mistake is called ${wanted[*]}"
echo "$((tried - missed)) of $tried mistakes caught"
[ "$missed" = 0 ]
