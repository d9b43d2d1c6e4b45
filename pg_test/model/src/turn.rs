//! What may happen next, and making it happen. Everything within one step is atomic: a hold of the stripe's lock, a look at the table
//! with one snapshot, or the instant at which a transaction's effects become visible.

use crate::heap::State;
use crate::rules::{Rule, off};
use crate::world::{Op, SECOND, Session, WaitStage, Why, World};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// A session goes on.
    Go(usize),
    /// What it is doing fails.
    Fail(usize),
    Commit(usize),
    Abort(usize),
    Prepare(usize),
    TimeOut(usize),
    Cancel(usize),
    Tick,
    StepBack,
    SmallStepBack,
    Crash,
    /// COMMIT or ROLLBACK PREPARED.
    Finish(usize, bool),
}

impl World {
    pub fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for (who, session) in self.sessions.iter().enumerate() {
            self.choices_of(who, session, &mut choices);
        }
        let budget = &self.budget;
        let world = [
            (budget.ticks, Choice::Tick),
            (budget.steps_back, Choice::StepBack),
            (budget.small_steps_back, Choice::SmallStepBack),
            (budget.crashes, Choice::Crash),
        ];
        choices.extend(world.into_iter().filter(|(left, _)| *left > 0).map(|(_, choice)| choice));
        for at in 0..self.prepared.len() {
            choices.extend([Choice::Finish(at, true), Choice::Finish(at, false)]);
        }
        choices
    }

    fn choices_of(&self, who: usize, session: &Session, choices: &mut Vec<Choice>) {
        if session.ending.is_some() || session.undo.is_some() {
            choices.push(Choice::Go(who));
        } else if session.refill.is_some() || session.claim.is_some() {
            choices.push(Choice::Go(who));
            if self.budget.fails > 0 {
                choices.push(Choice::Fail(who));
            }
        } else if session.sweep.is_some() {
            choices.push(Choice::Go(who));
        } else if let Some(waiting) = &session.waiting {
            if waiting.stage != WaitStage::Asleep || session.latch || self.now >= waiting.until {
                choices.push(Choice::Go(who));
            }
            if waiting.stage == WaitStage::Asleep {
                if self.budget.time_outs > 0 {
                    choices.push(Choice::TimeOut(who));
                }
                if self.budget.cancels > 0 {
                    choices.push(Choice::Cancel(who));
                }
            }
        } else if let Some(Op::End(ends)) = session.script.last() {
            let ends = [
                (ends.commit, Choice::Commit(who)),
                (ends.abort, Choice::Abort(who)),
                (ends.prepare && session.tx.is_some(), Choice::Prepare(who)),
            ];
            choices.extend(ends.into_iter().filter(|(may, _)| *may).map(|(_, choice)| choice));
        } else if !session.script.is_empty() {
            choices.push(Choice::Go(who));
        }
    }

    pub fn step(&mut self, choice: Choice) {
        match choice {
            Choice::Go(who) => self.go(who),
            Choice::Fail(who) => {
                self.budget.fails = self.budget.fails.saturating_sub(1);
                self.say(Some(who), || "ERROR".into());
                self.fail(who);
            }
            Choice::Commit(who) => {
                self.sessions[who].script.pop();
                self.end(who, true);
            }
            Choice::Abort(who) => {
                self.sessions[who].script.pop();
                self.end(who, false);
            }
            Choice::Prepare(who) => {
                self.sessions[who].script.pop();
                self.prepare(who);
            }
            Choice::TimeOut(who) => {
                self.budget.time_outs = self.budget.time_outs.saturating_sub(1);
                self.say(Some(who), || "its time is over".into());
                if let Some(waiting) = &mut self.sessions[who].waiting {
                    waiting.is_over = true;
                    // He looks for the last time: what he was woken for he takes, unless this too is left out.
                    waiting.stage = if off(Rule::W2) { WaitStage::Leave(Why::Over) } else { WaitStage::Join };
                }
            }
            Choice::Cancel(who) => {
                self.budget.cancels = self.budget.cancels.saturating_sub(1);
                self.say(Some(who), || "is cancelled".into());
                if let Some(waiting) = &mut self.sessions[who].waiting {
                    waiting.stage = WaitStage::Leave(Why::Cancelled);
                }
            }
            Choice::Tick => {
                self.budget.ticks = self.budget.ticks.saturating_sub(1);
                self.set_clock(self.now + 10 * SECOND);
            }
            Choice::StepBack => {
                self.budget.steps_back = self.budget.steps_back.saturating_sub(1);
                self.set_clock(self.now - 10 * SECOND);
            }
            Choice::SmallStepBack => {
                self.budget.small_steps_back = self.budget.small_steps_back.saturating_sub(1);
                self.set_clock(self.now - SECOND / 2);
            }
            Choice::Crash => {
                self.budget.crashes = self.budget.crashes.saturating_sub(1);
                self.crash();
            }
            Choice::Finish(at, committed) => self.finish_prepared(at, committed),
        }
    }

    pub fn set_clock(&mut self, now: i64) {
        self.now = now;
        for row in 0..self.rows.len() {
            if self.is_stranded(&self.rows[row].committed) {
                self.leave_to_sweep(row);
                self.rows[row].is_quiet = true;
            }
        }
        self.say(None, || format!("the clock shows {}", now as f64 / SECOND as f64));
    }

    fn go(&mut self, who: usize) {
        let session = &self.sessions[who];
        if session.ending.is_some() {
            self.go_on_ending(who);
        } else if session.undo.is_some() {
            self.go_on_undoing(who);
        } else if session.refill.is_some() {
            self.go_on_refilling(who);
        } else if session.claim.is_some() {
            self.go_on_claiming(who);
        } else if session.sweep.is_some() {
            self.go_on_sweeping(who);
        } else if session.waiting.is_some() {
            self.go_on_waiting(who);
        } else if let Some(op) = self.sessions[who].script.pop() {
            self.start(who, op);
        }
    }

    /// The statement of a session fails: its subtransaction is undone if it has one, or its transaction ends.
    fn fail(&mut self, who: usize) {
        let session = &mut self.sessions[who];
        session.claim = None;
        if let Some(waiting) = &mut session.waiting {
            waiting.stage = WaitStage::Leave(Why::Cancelled);
        }
        let has_savepoint = session.tx.as_ref().is_some_and(|tx| tx.subs.len() > 1);
        if has_savepoint && session.waiting.is_none() {
            self.roll_back_to_savepoint(who);
            return;
        }
        while let Some(op) = session.script.last() {
            let was_end = matches!(op, Op::End(_));
            if !was_end && !matches!(op, Op::RollbackTo | Op::Claim { .. } | Op::Cancel(..) | Op::Enqueue(_) | Op::Savepoint) {
                break;
            }
            session.script.pop();
            if was_end {
                break;
            }
        }
        self.end(who, false);
    }

    /// Shared memory is gone, and so is whatever was not committed or prepared.
    fn crash(&mut self) {
        self.say(None, || "CRASH".into());
        self.memory = self.memory.emptied();
        let prepared: Vec<u8> = self.prepared.iter().map(|prepared| prepared.holder).collect();
        for row in &mut self.rows {
            row.holder = row.holder.filter(|holder| prepared.contains(holder));
        }
        for session in &mut self.sessions {
            let script = std::mem::take(&mut session.script);
            *session = Session { script, ..Session::default() };
            // What it was in the middle of is over.
            if let Some(end) = session.script.iter().rposition(|op| matches!(op, Op::End(_))) {
                session.script.truncate(end);
            }
        }
    }

    /// Lets one session go on until it has nothing to do. Transactions commit.
    pub fn run_alone(&mut self, who: usize) {
        for _ in 0..10_000 {
            let mut choices = Vec::new();
            self.choices_of(who, &self.sessions[who], &mut choices);
            let Some(choice) = choices.into_iter().find(|choice| !matches!(choice, Choice::Fail(_) | Choice::TimeOut(_))) else {
                return;
            };
            self.step(choice);
        }
        self.blame(|| format!("session {who} does not come to an end"));
    }

    /// Nobody tells of this job: the next sweep that begins must find it.
    pub fn leave_to_sweep(&mut self, row: usize) {
        self.rows[row].untold = true;
        for sweep in self.sessions.iter_mut().filter_map(|session| session.sweep.as_mut()) {
            sweep.untold.retain(|other| *other as usize != row);
        }
    }

    pub fn is_running(&self, row: usize) -> bool {
        self.rows[row].committed.state == State::Running && self.rows[row].holder.is_none()
    }
}
