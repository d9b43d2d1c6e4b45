//! A claim of one job, as store::direct makes it: what shared memory proposes, a refill, the ready index.

use crate::dispatch::Key;
use crate::dispatch::stripe::{Found, Search, Side};
use crate::heap::{State, Version};
use crate::notes::Place;
use crate::ops::{AT_ABORT, show};
use crate::rules::{Rule, off};
use crate::world::{Claim, Stage, World, kinds_of, wants};

impl World {
    pub fn go_on_claiming(&mut self, who: usize) {
        let Some(claim) = self.sessions[who].claim.clone() else { return };
        match claim.stage.clone() {
            Stage::Pop => self.pop(who, &claim),
            Stage::Look(job, place, now) => self.look(who, &claim, job, place, now),
            Stage::Lock(job, place) => self.lock(who, job, place),
            Stage::Drop(_) => self.goes_on_with(who, Stage::Pop),
            Stage::BeginRefill { side, horizon } => self.begin_refill(who, claim.queue, side, horizon),
            Stage::Index(from) => self.read_index(who, &claim, from),
            Stage::IndexTake(found) => self.take_from_index(who, &found),
        }
    }

    fn goes_on_with(&mut self, who: usize, stage: Stage) {
        if let Some(claim) = &mut self.sessions[who].claim {
            claim.stage = stage;
        }
    }

    fn claim_is_over(&mut self, who: usize, found: bool) {
        self.sessions[who].claim = None;
        self.sessions[who].found = found;
        if !found {
            self.say(Some(who), || "finds nothing".into());
        }
    }

    fn pop(&mut self, who: usize, claim: &Claim) {
        let (kinds, wall, low_water) = (kinds_of(claim.kinds), self.now, self.setup.low_water);
        let taken = self.locked_entry(claim.queue, |stripe, at| {
            let now = stripe.clock(at, wall);
            let wanted = |candidate: &crate::dispatch::Candidate| kinds.is_empty() || kinds.contains(&candidate.kind);
            let found = stripe.take(at, now, &mut Search::begin(), wanted);
            stripe.ask_for_refill(at, low_water);
            (found, stripe.horizon(at, Side::Ready), now)
        });
        let Some((found, horizon, now)) = taken else { return self.goes_on_with(who, Stage::Index(Key::MIN)) };
        match found {
            Found::Candidate(candidate) => {
                let job = Version::of(&candidate, claim.queue);
                self.say(Some(who), || format!("pops {}", show(&job)));
                if let Some(earlier) =
                    self.offered(claim.queue, claim.kinds, now).find(|row| row.candidate().ready_key() < candidate.ready_key())
                {
                    self.blame(|| format!("{} is proposed before {}", show(&job), show(&earlier)));
                }
                let place = if off(Rule::D11) { None } else { self.note(who, &job, AT_ABORT) };
                self.goes_on_with(who, Stage::Look(job, place, now));
            }
            Found::Again => {}
            Found::TooFar => self.goes_on_with(who, Stage::Index(Key::MIN)),
            Found::Nothing { .. } => {
                if let Some(left) = self.offered(claim.queue, claim.kinds, now).next() {
                    self.blame(|| format!("a claim is told that there is nothing, and {} is ready", show(&left)));
                }
                self.claim_is_over(who, false);
            }
            Found::Short(side) => {
                let is_worth_it = kinds.is_empty() || side == Side::Due || horizon == Key::MIN;
                let stage = if is_worth_it && claim.refills < self.setup.refills {
                    Stage::BeginRefill { side, horizon }
                } else {
                    self.index_from(side, horizon)
                };
                self.say(Some(who), || format!("finds the {side:?} side short"));
                self.goes_on_with(who, stage);
            }
        }
    }

    fn index_from(&self, side: Side, horizon: Key) -> Stage {
        Stage::Index(if side == Side::Ready { horizon } else { Key::MIN })
    }

    /// The refill of a claim is over. Is more known than before?
    pub fn refill_of_claim_is_over(&mut self, who: usize, side: Side, asked_at: Key, more: bool) {
        let stage = if more { Stage::Pop } else { self.index_from(side, asked_at) };
        if let Some(claim) = &mut self.sessions[who].claim {
            claim.refills += 1;
            claim.stage = stage;
        }
    }

    /// With a new snapshot: is the candidate what it seems?
    fn look(&mut self, who: usize, claim: &Claim, job: Version, place: Place, now: i64) {
        let old = self.sessions[who].tx.as_ref().and_then(|tx| tx.snapshot.clone()).filter(|_| off(Rule::D5));
        let seen = old.unwrap_or_else(|| self.view(who))[job.row()];
        if seen.id != job.id || !seen.is_ready() {
            self.say(Some(who), || format!("does not see {} ready, drops it", job.name()));
            self.tx(who).notes.not_taken(place);
            return self.goes_on_with(who, if off(Rule::D9) { Stage::Drop(job) } else { Stage::Pop });
        }
        let limit = if off(Rule::T2) { claim.began } else { now };
        if seen.run_at > limit || !wants(claim.kinds, seen.kind) {
            self.say(Some(who), || format!("finds that {} is not due at {}", job.name(), limit as f64 / 1e6));
            if !off(Rule::T2) {
                self.offer(who, claim.queue, &[seen]);
            }
            self.tx(who).notes.not_taken(place);
            let not_yet = seen.run_at > limit && !off(Rule::T2);
            return self.goes_on_with(who, if not_yet { Stage::Index(Key::MIN) } else { Stage::Pop });
        }
        if !off(Rule::D14) && !off(Rule::D11) {
            match place {
                Some(at) => self.tx(who).notes.list[at].job = seen,
                None => _ = self.note(who, &seen, AT_ABORT),
            }
        }
        self.goes_on_with(who, Stage::Lock(seen, place));
    }

    /// Can this row be locked, and is it still what was seen?
    fn may_take(&self, who: usize, seen: &Version) -> bool {
        let row = &self.rows[seen.row()];
        let is_own = row.holder == Some(who as u8);
        (row.holder.is_none() && row.committed == *seen) || (is_own && self.view(who)[seen.row()] == *seen)
    }

    fn take_row(&mut self, who: usize, seen: &Version) {
        self.write(who, Version { state: State::Running, ..*seen });
        self.say(Some(who), || format!("takes {}", show(seen)));
        self.claim_is_over(who, true);
    }

    fn lock(&mut self, who: usize, seen: Version, place: Place) {
        if self.may_take(who, &seen) {
            return self.take_row(who, &seen);
        }
        self.say(Some(who), || format!("cannot have {}, drops it", seen.name()));
        self.tx(who).notes.not_taken(place);
        self.goes_on_with(who, Stage::Pop);
    }

    fn read_index(&mut self, who: usize, claim: &Claim, from: Key) {
        if !self.setup.index {
            if let Some(left) = self.offered(claim.queue, claim.kinds, self.now).next() {
                self.blame(|| format!("a claim gives up, and {} is ready", show(&left)));
            }
            return self.claim_is_over(who, false);
        }
        let clock = self.memory.view(claim.queue).map(|entry| entry.clock).filter(|_| !off(Rule::K6));
        let now = clock.map_or(self.now, |clock| clock.max(self.now));
        let mut found: Vec<Version> = self.view(who);
        found.retain(|row| {
            row.is_ready()
                && row.queue == claim.queue
                && row.run_at <= now
                && wants(claim.kinds, row.kind)
                && row.candidate().ready_key() >= from
        });
        found.sort_by_key(|row| row.candidate().ready_key());
        self.say(Some(who), || format!("reads {} in the index", found.iter().map(show).collect::<Vec<_>>().join(", ")));
        if found.is_empty() {
            return self.claim_is_over(who, false);
        }
        self.goes_on_with(who, Stage::IndexTake(found));
    }

    fn take_from_index(&mut self, who: usize, found: &[Version]) {
        let Some(first) = found.iter().find(|seen| self.may_take(who, seen)) else { return self.claim_is_over(who, false) };
        if !off(Rule::D11) {
            self.note(who, first, AT_ABORT);
        }
        self.take_row(who, first);
        self.locked(first.queue, |stripe, at| stripe.withdraw(at, &[first.candidate()]));
    }
}
