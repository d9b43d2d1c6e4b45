//! What sessions do in their transactions, and how these end.

use crate::dispatch::stripe::{Side, Stripe};
use crate::heap::{ROWS, State, Version};
use crate::memory::queue_key;
use crate::notes::When;
use crate::rules::{Rule, off};
use crate::world::{Claim, Ending, Op, Prepared, Refill, RefillStage, SECOND, Stage, Sweep, WaitStage, Waiting, World};

const AT_COMMIT: When = When { commit: true, abort: false };
pub const AT_ABORT: When = When { commit: false, abort: true };
const AT_BOTH: When = When { commit: true, abort: true };

impl World {
    /// Runs `body` under the stripe's lock with the place of a queue, if it has one. Then those who are to be woken are.
    pub fn locked<T>(&mut self, queue: u8, body: impl FnOnce(&mut Stripe<'_>, usize) -> T) -> Option<T> {
        let (outcome, wakes) = self.memory.hold(|stripe| stripe.find(&queue_key(queue)).map(|at| body(stripe, at)));
        self.wake(&wakes);
        outcome
    }

    /// The same; the queue gets a place if there is one to be had.
    pub fn locked_entry<T>(&mut self, queue: u8, body: impl FnOnce(&mut Stripe<'_>, usize) -> T) -> Option<T> {
        let (outcome, wakes) = self.memory.hold(|stripe| stripe.entry(&queue_key(queue)).map(|at| body(stripe, at)));
        self.wake(&wakes);
        outcome
    }

    pub fn note(&mut self, who: usize, job: &Version, when: When) -> Option<usize> {
        let (now, limit) = (self.now, self.setup.notes);
        let tx = self.tx(who);
        let sub = tx.sub();
        tx.notes.add(job, sub, when, now, limit)
    }

    pub fn start(&mut self, who: usize, op: Op) {
        match op {
            Op::Enqueue(row) => self.enqueue(who, row as usize),
            Op::Cancel(row, change) => self.cancel(who, row as usize, change),
            Op::Claim { queue, kinds } => self.begin_claim(who, queue, kinds),
            Op::Complete => self.finish(who, |version, _| version.state = State::Gone),
            Op::Release => self.finish(who, |version, _| version.state = State::Ready),
            Op::Fail => self.finish(who, |version, _| rank(version, 3)),
            Op::Hurry => self.finish(who, |version, _| rank(version, -3)),
            Op::Retry(delay) => self.finish(who, |version, now| {
                (version.state, version.run_at, version.scheduled) = (State::Ready, now + delay, true);
            }),
            Op::Reschedule(row) => self.reschedule(who, row as usize),
            Op::Rescue(row) => self.rescue(who, row as usize),
            Op::Savepoint => {
                let tx = self.tx(who);
                tx.last_sub += 1;
                tx.subs.push(tx.last_sub);
                self.say(Some(who), || "SAVEPOINT".into());
            }
            Op::RollbackTo => {
                if self.sessions[who].tx.as_ref().is_some_and(|tx| tx.subs.len() > 1) {
                    self.roll_back_to_savepoint(who);
                }
            }
            Op::End(_) => {}
            Op::Refill { queue, side } => self.begin_refill(who, queue, side, crate::dispatch::Key::MIN),
            Op::Sweep => self.sessions[who].sweep = Some(Sweep::default()),
            Op::Tick => self.tick(who),
            Op::Wait { queue, kinds } => {
                let stage = if off(Rule::W1) { WaitStage::Look } else { WaitStage::Join };
                self.sessions[who].waiting = Some(Waiting {
                    queue,
                    kinds,
                    place: None,
                    stage,
                    is_over: false,
                    ticket: Default::default(),
                    until: i64::MAX,
                });
            }
            Op::ForgetQueue(queue) => {
                self.tx(who).notes.forget(queue);
                self.say(Some(who), || format!("has queue {queue} forgotten at its end"));
            }
        }
    }

    /// A new job in this row, if the last one there is done with.
    fn enqueue(&mut self, who: usize, row: usize) {
        let old = self.rows[row].committed;
        if self.rows[row].holder.is_some() || !matches!(old.state, State::Absent | State::Gone) {
            return;
        }
        let wanted = self.setup.jobs[row];
        let id = if old.state == State::Gone { old.id + ROWS } else { old.id };
        let (state, run_at) = (State::Ready, self.now + wanted.run_at);
        let version = Version { state, id, run_at, scheduled: wanted.run_at > 0, ..wanted };
        self.write(who, version);
        self.note(who, &version, AT_COMMIT);
        self.tx(who).notes.made_ready = true;
        self.say(Some(who), || format!("enqueues {}", show(&version)));
    }

    fn cancel(&mut self, who: usize, row: usize, change: bool) {
        let version = self.rows[row].committed;
        if self.rows[row].holder.is_some() || !version.is_ready() {
            return;
        }
        if !off(Rule::D6) {
            self.note(who, &version, AT_BOTH);
        }
        let state = if change { State::Gone } else { State::Ready };
        self.write(who, Version { state, ..version });
        self.say(Some(who), || format!("{} {}", if change { "cancels" } else { "locks" }, show(&version)));
    }

    fn finish(&mut self, who: usize, change: impl FnOnce(&mut Version, i64)) {
        let Some(row) = self.sessions[who].held.iter().map(|row| *row as usize).find(|row| self.is_running(*row)) else { return };
        self.requeue(who, row, change);
    }

    fn reschedule(&mut self, who: usize, row: usize) {
        let version = self.rows[row].committed;
        if self.rows[row].holder.is_some() || !version.is_ready() {
            return;
        }
        self.note(who, &version, AT_BOTH);
        let version = Version { priority: version.priority - 3, ..version };
        self.write(who, version);
        self.note(who, &version, AT_COMMIT);
        self.say(Some(who), || format!("gives another priority to {}", show(&version)));
    }

    fn rescue(&mut self, who: usize, row: usize) {
        let is_held = self.sessions.iter().any(|session| session.held.contains(&(row as u8)));
        if !is_held && self.is_running(row) {
            self.requeue(who, row, |version, _| version.state = State::Ready);
        }
    }

    fn requeue(&mut self, who: usize, row: usize, change: impl FnOnce(&mut Version, i64)) {
        let mut version = self.rows[row].committed;
        change(&mut version, self.now);
        self.write(who, version);
        if version.is_ready() {
            self.note(who, &version, AT_COMMIT);
            self.tx(who).notes.made_ready = true;
        }
        self.say(Some(who), || format!("{} {}", if version.is_ready() { "gives back" } else { "completes" }, show(&version)));
    }

    fn begin_claim(&mut self, who: usize, queue: u8, kinds: u8) {
        let view = self.setup.old_snapshots.then(|| self.view(who));
        let began = self.now;
        let tx = self.tx(who);
        if tx.snapshot.is_none() {
            tx.snapshot = view;
        }
        // Jobs of its own making are in the table only.
        let stage = if tx.notes.made_ready { Stage::Index(crate::dispatch::Key::MIN) } else { Stage::Pop };
        self.sessions[who].found = false;
        self.sessions[who].claim = Some(Claim { queue, kinds, stage, refills: 0, began });
        self.say(Some(who), || format!("claims from queue {queue}{}", if kinds > 0 { " certain kinds" } else { "" }));
    }

    pub fn begin_refill(&mut self, who: usize, queue: u8, side: Side, asked_at: crate::dispatch::Key) {
        let early = off(Rule::D3) || off(Rule::T1);
        let stage = if early { RefillStage::Early } else { RefillStage::Begin };
        let session = &mut self.sessions[who];
        session.refill = Some(Refill { queue, side, stage, number: Default::default(), from: asked_at, now: 0, asked_at });
        (session.read, session.merged) = (None, 0);
    }

    /// Its effects are visible, and its rows are free, before its callback runs.
    pub fn end(&mut self, who: usize, committed: bool) {
        let Some(tx) = self.sessions[who].tx.take() else {
            if !committed {
                // A transaction that only waited, or refilled.
                self.sessions[who].ending = Some(Ending { committed, notes: Default::default(), crowds_done: 0 });
            }
            return;
        };
        self.say(Some(who), || if committed { "COMMIT is visible".into() } else { "ROLLBACK is visible".into() });
        for change in &tx.changes {
            self.settle(change.version, committed, Some(who));
        }
        self.let_sweep_find(&tx.notes.ready_in_crowd);
        self.sessions[who].claim = None;
        self.sessions[who].ending = Some(Ending { committed, notes: tx.notes, crowds_done: 0 });
        self.skip_empty_ending(who);
    }

    /// A row of a transaction that has ended.
    fn settle(&mut self, version: Version, committed: bool, who: Option<usize>) {
        let row = version.row();
        self.rows[row].holder = None;
        if !committed {
            return;
        }
        self.rows[row].committed = version;
        self.rows[row].untold = false;
        self.rows[row].is_quiet = self.is_stranded(&version);
        if self.is_stranded(&version) {
            self.leave_to_sweep(row);
        }
        for session in &mut self.sessions {
            session.held.retain(|held| *held as usize != row);
        }
        if version.state == State::Running {
            self.handed_out += 1;
            if let Some(who) = who {
                self.sessions[who].held.push(row as u8);
            }
        }
    }

    pub fn prepare(&mut self, who: usize) {
        let Some(tx) = self.sessions[who].tx.take() else { return };
        let holder = (100u8..).find(|n| self.prepared.iter().all(|prepared| prepared.holder != *n)).unwrap_or(255);
        for change in &tx.changes {
            self.rows[change.row as usize].holder = Some(holder);
        }
        self.say(Some(who), || "PREPARE TRANSACTION".into());
        self.prepared.push(Prepared { holder, changes: tx.changes });
    }

    /// No callback tells what a prepared transaction has made ready: everything is forgotten.
    pub fn finish_prepared(&mut self, at: usize, committed: bool) {
        let prepared = self.prepared.remove(at);
        self.say(None, || format!("{} PREPARED", if committed { "COMMIT" } else { "ROLLBACK" }));
        for change in &prepared.changes {
            self.settle(change.version, committed, None);
        }
        for queue in 0..8 {
            let forget = |stripe: &mut Stripe<'_>| stripe.find(&queue_key(queue)).into_iter().for_each(|at| stripe.remove(at));
            let (_, wakes) = self.memory.hold(|stripe| {
                if !off(Rule::K7) {
                    forget(stripe)
                }
            });
            self.wake(&wakes);
        }
    }

    /// Jobs of a big transaction that were ready when they were noted, and are ahead of their time at its end, since the clock was
    /// set back: they are let go of on the ready side only.
    pub fn let_sweep_find(&mut self, rows: &[u8]) {
        for row in rows.iter().map(|row| *row as usize) {
            let version = self.rows[row].committed;
            if version.is_ready() && version.run_at > self.now {
                self.leave_to_sweep(row);
            }
        }
    }

    /// Ahead of its time since the clock was set back, and not in the index of jobs that fall due: when it stands behind a scheduled
    /// job of its priority no refill sees it, and it waits for a sweep (store::candidates::Vouch).
    pub fn is_stranded(&self, version: &Version) -> bool {
        version.is_ready() && !version.scheduled && version.run_at > self.now
    }
}

/// Back with another priority.
fn rank(version: &mut Version, by: i32) {
    version.state = State::Ready;
    version.priority += by;
}

/// A job with its place in the order of claims.
pub fn show(version: &Version) -> String {
    let ahead = if version.scheduled { "~" } else { "" };
    format!(
        "{}@{}:{ahead}{} (queue {}, kind {})",
        version.name(),
        version.priority,
        version.run_at as f64 / SECOND as f64,
        version.queue,
        version.kind
    )
}
