//! The callbacks at the end of transactions and subtransactions: pg::notes as a sequence of holds of the lock.

use crate::dispatch::stripe::Side;
use crate::heap::Version;
use crate::rules::{Rule, off};
use crate::world::{Ending, Stage, WaitStage, World};

impl World {
    /// Offers jobs of one queue in one hold of the lock: how many were missing.
    pub fn offer(&mut self, who: usize, queue: u8, jobs: &[Version]) -> usize {
        self.say(Some(who), || format!("offers {}", jobs.iter().map(crate::ops::show).collect::<Vec<_>>().join(", ")));
        let in_flight = self.sessions.iter().filter_map(|session| match &session.claim.as_ref()?.stage {
            Stage::Look(job, ..) | Stage::Lock(job, _) | Stage::Drop(job) => Some(job.id),
            _ => None,
        });
        let in_flight: Vec<u32> = if off(Rule::D9) { in_flight.collect() } else { Vec::new() };
        let now = self.now;
        let added = self.locked(queue, |stripe, at| {
            let mut added = 0;
            for job in jobs.iter().filter(|job| !in_flight.contains(&job.id)) {
                let candidate = job.candidate();
                let is_due = candidate.run_at <= now;
                let blind = (off(Rule::D12) && is_due && candidate.ready_key() >= stripe.horizon(at, Side::Ready))
                    || (off(Rule::T5) && !is_due && candidate.due_key() >= stripe.horizon(at, Side::Due));
                if !blind && stripe.offer(at, &candidate, now) {
                    added += 1;
                }
            }
            added
        });
        added.unwrap_or(0)
    }

    fn abandon(&mut self, who: usize) {
        let Some(refill) = self.sessions[who].refill.take() else { return };
        if !off(Rule::D8) {
            self.locked(refill.queue, |stripe, at| stripe.abandon(at, refill.side, refill.number.0));
        }
    }

    /// A transaction that has nothing to tell is over when it is visible.
    pub fn skip_empty_ending(&mut self, who: usize) {
        let session = &mut self.sessions[who];
        let leaves = session.waiting.as_ref().is_some_and(|waiting| matches!(waiting.stage, WaitStage::Leave(_)));
        let tells = |ending: &Ending| {
            let wanted = |note: &crate::notes::Note| if ending.committed { note.when.commit } else { note.when.abort };
            ending.notes.list.iter().any(wanted) || !ending.notes.crowds.is_empty()
        };
        let leaves = leaves && session.ending.as_ref().is_some_and(|ending| !ending.committed);
        if session.refill.is_none() && !leaves && !session.ending.as_ref().is_some_and(tells) {
            session.ending = None;
        }
    }

    pub fn go_on_ending(&mut self, who: usize) {
        let Some(mut ending) = self.sessions[who].ending.take() else { return };
        let waiting = self.sessions[who].waiting.as_ref();
        if let Some(WaitStage::Leave(why)) = waiting.map(|waiting| waiting.stage).filter(|_| !ending.committed) {
            self.leave(who, why);
        } else if self.sessions[who].refill.is_some() {
            self.abandon(who);
        } else if let Some((queue, jobs)) =
            ending.notes.next_offers(|note| if ending.committed { note.when.commit } else { note.when.abort })
        {
            self.offer(who, queue, &jobs);
        } else if let Some(crowd) = ending.notes.crowds.get(ending.crowds_done) {
            let (queue, begin) = (crowd.queue, if ending.committed { crowd.commit } else { crowd.abort });
            ending.crowds_done += 1;
            self.let_go(who, queue, begin);
        }
        let is_over = ending.crowds_done == ending.notes.crowds.len();
        self.sessions[who].ending = Some(ending);
        if is_over {
            if let Some(ending) = &mut self.sessions[who].ending {
                ending.notes.crowds.clear();
                ending.crowds_done = 0;
            }
            self.skip_empty_ending(who);
        }
    }

    fn let_go(&mut self, who: usize, queue: u8, begin: crate::notes::Begin) {
        self.say(Some(who), || format!("lets go of queue {queue}"));
        self.locked(queue, |stripe, at| {
            stripe.let_go(at, Side::Ready, begin.ready);
            stripe.let_go(at, Side::Due, begin.due);
        });
    }

    /// The effects of the current subtransaction are gone before its callback runs. Another one begins.
    pub fn roll_back_to_savepoint(&mut self, who: usize) {
        self.sessions[who].claim = None;
        let tx = self.tx(who);
        let Some(undone) = tx.subs.pop() else { return };
        tx.last_sub += 1;
        tx.subs.push(tx.last_sub);
        let rows: Vec<u8> = tx.changes.iter().filter(|change| change.sub >= undone).map(|change| change.row).collect();
        tx.changes.retain(|change| change.sub < undone);
        let kept: Vec<u8> = tx.changes.iter().map(|change| change.row).collect();
        for row in rows.into_iter().filter(|row| !kept.contains(row)) {
            self.rows[row as usize].holder = None;
        }
        let crowd = self.tx(who).notes.ready_in_crowd.clone();
        self.let_sweep_find(&crowd);
        self.sessions[who].undo = Some(undone);
        self.say(Some(who), || "ROLLBACK TO SAVEPOINT is visible".into());
    }

    pub fn go_on_undoing(&mut self, who: usize) {
        let Some(undone) = self.sessions[who].undo else { return };
        let begun_in = self.tx(who).refill_sub.filter(|sub| *sub >= undone);
        if self.sessions[who].refill.is_some() && begun_in.is_some() {
            self.abandon(who);
            self.tx(who).refill_sub = None;
            return;
        }
        if !off(Rule::U1) {
            let all = off(Rule::U2);
            let offers = self.tx(who).notes.next_offers(|note| (all || note.sub >= undone) && note.when.abort);
            if let Some((queue, jobs)) = offers {
                self.offer(who, queue, &jobs);
                return;
            }
        }
        for note in self.tx(who).notes.list.iter_mut().filter(|note| note.sub >= undone && !off(Rule::U1)) {
            note.when = Default::default();
        }
        for crowd in self.tx(who).notes.crowds.clone() {
            self.let_go(who, crowd.queue, crowd.abort);
        }
        self.sessions[who].undo = None;
    }
}
