//! What must hold: in every state, when nobody is at work, and at the end.

use crate::dispatch::stripe::Side;
use crate::heap::Version;
use crate::ops::show;
use crate::refill::show_key;
use crate::turn::Choice;
use crate::world::{Ends, Op, SECOND, Session, Stage, WaitStage, World, wants};

impl World {
    /// Will somebody who is at it yet say what becomes of this row?
    fn is_owed(&self, row: usize) -> bool {
        self.sessions.iter().any(|session| {
            let ending = session.ending.as_ref().is_some_and(|ending| {
                let wanted = |when: crate::notes::When| if ending.committed { when.commit } else { when.abort };
                let rest = ending.notes.crowds.iter().skip(ending.crowds_done);
                ending.notes.list.iter().any(|note| wanted(note.when) && note.job.row() == row)
                    || rest.into_iter().any(|crowd| crowd.queue == self.rows[row].committed.queue)
            });
            let undo = session.undo.zip(session.tx.as_ref()).is_some_and(|(undone, tx)| {
                tx.notes.list.iter().any(|note| note.sub >= undone && note.when.abort && note.job.row() == row)
                    || tx.notes.crowds.iter().any(|crowd| crowd.queue == self.rows[row].committed.queue)
            });
            let popped = session
                .claim
                .as_ref()
                .is_some_and(|claim| matches!(&claim.stage, Stage::Look(job, ..) | Stage::Lock(job, _) if job.row() == row));
            ending || undo || popped
        })
    }

    /// Ready jobs that anybody could have, and of which the dispatcher has been told.
    pub fn offered(&self, queue: u8, kinds: u8, now: i64) -> std::vec::IntoIter<Version> {
        let offered: Vec<Version> = (0..self.rows.len())
            .filter(|row| self.is_offered(*row))
            .map(|row| self.rows[row].committed)
            .filter(|row| row.queue == queue && row.run_at <= now && wants(kinds, row.kind))
            .collect();
        offered.into_iter()
    }

    fn is_offered(&self, row: usize) -> bool {
        let of = &self.rows[row];
        of.committed.is_ready() && of.holder.is_none() && !of.untold && !self.is_owed(row)
    }

    /// In every state: such a job is in a set, or at or behind a horizon.
    pub fn forgotten(&self) -> Option<String> {
        let row = (0..self.rows.len()).filter(|row| self.is_offered(*row)).map(|row| self.rows[row].committed).find(|row| {
            let Some(entry) = self.memory.view(row.queue) else { return false };
            let (ready, due) = (row.candidate().ready_key(), row.candidate().due_key());
            let vouched = ready < entry.ready.horizon && due < entry.due.horizon;
            vouched
                && !self.memory.content(&entry.ready).iter().any(|(key, _)| *key == ready)
                && !self.memory.content(&entry.due).iter().any(|(key, _)| *key == due)
        })?;
        let entry = self.memory.view(row.queue)?;
        let (ready, due) = (show_key(entry.ready.horizon), show_key(entry.due.horizon));
        Some(format!("{} is forgotten: the horizons are {ready} and {due}", show(&row)))
    }

    /// In every state: whoever refills a window is still at it.
    pub fn left_behind(&self) -> Option<String> {
        self.queues().into_iter().find_map(|queue| {
            let entry = self.memory.view(queue)?;
            let numbers = [entry.ready.refill, entry.due.refill].into_iter().filter(|number| *number != 0);
            let is_left = |number: u64| {
                let by = |session: &Session| session.refill.as_ref().is_some_and(|refill| refill.number.0 == number);
                !self.sessions.iter().any(by)
            };
            numbers
                .into_iter()
                .any(is_left)
                .then(|| format!("a refill of queue {queue} is left behind: nobody else can begin one"))
        })
    }

    /// All that must hold in every state.
    pub fn violated(&self) -> Option<String> {
        let wrong = self.wrong.clone().or_else(|| self.forgotten());
        wrong.or_else(|| self.left_behind()).or_else(|| self.overslept())
    }

    pub fn is_calm(&self) -> bool {
        self.sessions.iter().all(|session| {
            let is_at_work = session.ending.is_some()
                || session.undo.is_some()
                || session.claim.is_some()
                || session.refill.is_some()
                || session.sweep.is_some();
            let is_awake = session
                .waiting
                .as_ref()
                .is_some_and(|waiting| waiting.stage != WaitStage::Asleep || session.latch || self.now >= waiting.until);
            !is_at_work && !is_awake
        })
    }

    /// When nobody is at work, and the maintainer has done what he does on time: a waiter sleeps, and there is a job for him.
    pub fn overslept(&self) -> Option<String> {
        let sleeps = |session: &Session| session.waiting.is_some();
        if !self.sessions.iter().any(sleeps) || !self.is_calm() {
            return None;
        }
        let mut later = World { log: None, ..self.clone() };
        let maintainer = later.join_in();
        for _ in 0..8 {
            later.do_alone(maintainer, &[Op::Tick]);
            let known = 0..8u8;
            let low: Vec<(u8, Side)> = known.filter_map(|queue| Some((queue, later.low(queue)?))).collect();
            for (queue, side) in &low {
                later.do_alone(maintainer, &[Op::Refill { queue: *queue, side: *side }]);
            }
            if low.is_empty() || later.sessions.iter().any(|session| session.latch) {
                break;
            }
        }
        if later.sessions.iter().any(|session| session.latch) {
            return None;
        }
        later.sessions.iter().enumerate().find_map(|(who, session)| {
            let waiting = session.waiting.as_ref()?;
            let mut left = later.offered(waiting.queue, waiting.kinds, later.now);
            let left = left.find(|job| !later.rows[job.row()].is_quiet)?;
            Some(format!("s{who} sleeps, {} is ready for it, and nobody is awake to look", show(&left)))
        })
    }

    /// A further session, for what a check has done.
    pub fn join_in(&mut self) -> usize {
        self.sessions.push(Session::default());
        self.sessions.len() - 1
    }

    pub fn do_alone(&mut self, who: usize, ops: &[Op]) {
        self.sessions[who].script.extend(ops.iter().rev().cloned());
        self.run_alone(who);
    }

    /// When all have done what they had to do: every job can be claimed, in order, and nothing is left in memory.
    pub fn unfinished(&self) -> Option<String> {
        let mut end = World { log: None, ..self.clone() };
        end.wind_up();
        end.wrong
    }

    pub fn wind_up(&mut self) {
        for who in 0..self.sessions.len() {
            self.sessions[who].script.retain(|op| !matches!(op, Op::Wait { .. }));
            if self.sessions[who].waiting.is_some() {
                self.step(Choice::Cancel(who));
            }
            self.run_alone(who);
        }
        while !self.prepared.is_empty() {
            self.finish_prepared(0, false);
        }
        let who = self.join_in();
        self.budget.fails = 0;
        self.hand_out_all(who);
        self.set_clock(self.now + 1_000 * SECOND);
        self.hand_out_all(who);
        // What lies behind a horizon stays until a refill has ended.
        for queue in self.queues() {
            let refill = |side| Op::Refill { queue, side };
            self.do_alone(who, &[refill(Side::Due), refill(Side::Ready)]);
        }
        self.hand_out_all(who);
        self.blame_leaks();
    }

    fn hand_out_all(&mut self, who: usize) {
        self.do_alone(who, &[Op::Sweep]);
        let end = Op::End(Ends { commit: true, abort: false, prepare: false });
        for queue in self.queues() {
            loop {
                self.do_alone(who, &[Op::Claim { queue, kinds: 0 }, end.clone()]);
                if !self.sessions[who].found || self.wrong.is_some() {
                    break;
                }
                self.do_alone(who, &[Op::Complete, end.clone()]);
            }
        }
        let now = self.now;
        if let Some(left) = self.rows.iter().map(|row| row.committed).find(|row| row.is_ready() && row.run_at <= now) {
            self.blame(|| format!("in the end {} is not handed out", show(&left)));
        }
    }

    pub fn queues(&self) -> Vec<u8> {
        let mut queues: Vec<u8> = self.setup.jobs.iter().map(|job| job.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    fn blame_leaks(&mut self) {
        for queue in self.queues() {
            let Some(entry) = self.memory.view(queue) else { continue };
            let line = entry.line.count;
            if line != 0 {
                self.blame(|| format!("queue {queue} has a line of {line} when nobody waits"));
            }
        }
        let (used, free, waiters) = (self.memory.slots_used(), self.memory.places_free(), self.setup.waiters);
        if used != 0 {
            self.blame(|| format!("{used} slots are used when there is no job"));
        }
        if free != waiters {
            self.blame(|| format!("{free} of {waiters} places are free when nobody waits"));
        }
    }
}
