//! The state of a world: the job table, one stripe of shared memory, sessions at their work, a clock.

use crate::dispatch::Key;
use crate::dispatch::stripe::Side;
use crate::heap::{Read, Row, State, Version};
use crate::memory::Memory;
use crate::notes::{Notes, Place};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

pub const SECOND: i64 = 1_000_000;

/// What stays the same in a world.
#[derive(Clone)]
pub struct Setup {
    pub places: usize,
    pub slots: usize,
    pub waiters: usize,
    /// Notes of a transaction before it is a big one.
    pub notes: usize,
    /// Rows a refill reads, and merges in one hold of the lock; rows a sweep reads.
    pub refill: usize,
    pub chunk: usize,
    pub low_water: usize,
    /// The jobs that may be enqueued; `run_at` is how far ahead of the clock.
    pub jobs: Vec<Version>,
    /// A refill counts these in vain before a claim takes the index.
    pub refills: u8,
    /// Claims may take the ready index (without it: the control for D10).
    pub index: bool,
    /// A claim is made in a transaction whose snapshot is taken at its start.
    pub old_snapshots: bool,
}

/// What a session is to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    Enqueue(u8),
    /// Locks a ready job; true: and takes it away.
    Cancel(u8, bool),
    Claim {
        queue: u8,
        kinds: u8,
    },
    Complete,
    Release,
    Fail,
    /// Before others.
    Hurry,
    /// The same priority, ready some time later.
    Retry(i64),
    /// Gives a ready job another priority: retry() of a pending job.
    Reschedule(u8),
    /// A running job whose worker is gone.
    Rescue(u8),
    Savepoint,
    RollbackTo,
    /// The end of a transaction: whichever of these.
    End(Ends),
    Refill {
        queue: u8,
        side: Side,
    },
    Sweep,
    /// The maintainer looks which jobs have fallen due that somebody waits for.
    Tick,
    Wait {
        queue: u8,
        kinds: u8,
    },
    ForgetQueue(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ends {
    pub commit: bool,
    pub abort: bool,
    pub prepare: bool,
}

impl Hash for Side {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (*self == Side::Due).hash(state);
    }
}

/// A number that says nothing about what will happen.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Mute<T>(pub T);

impl<T> Hash for Mute<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, Hash)]
pub struct Change {
    pub row: u8,
    pub sub: u32,
    pub version: Version,
}

#[derive(Clone, Hash, Default)]
pub struct Tx {
    /// Open subtransactions; the last one is the current one. Numbers grow and never come again.
    pub subs: Vec<u32>,
    pub last_sub: u32,
    pub changes: Vec<Change>,
    pub notes: Notes,
    pub snapshot: Option<Vec<Version>>,
    /// The subtransaction in which the refill under way began.
    pub refill_sub: Option<u32>,
}

impl Tx {
    pub fn sub(&self) -> u32 {
        self.subs.last().copied().unwrap_or(1)
    }
}

/// Its effects are visible, its callback is under way.
#[derive(Clone, Hash)]
pub struct Ending {
    pub committed: bool,
    pub notes: Notes,
    pub crowds_done: usize,
}

#[derive(Clone, Hash)]
pub struct Claim {
    pub queue: u8,
    pub kinds: u8,
    pub stage: Stage,
    pub refills: u8,
    /// The clock when it began.
    pub began: i64,
}

#[derive(Clone, Hash)]
pub enum Stage {
    Pop,
    /// With the candidate, its note, the clock of the pop.
    Look(Version, Place, i64),
    /// It was seen ready.
    Lock(Version, Place),
    /// It was seen not ready (a step of its own only for rule D9).
    Drop(Version),
    BeginRefill {
        side: Side,
        horizon: Key,
    },
    /// Reads the ready index from a key on.
    Index(Key),
    /// What it found there.
    IndexTake(Vec<Version>),
}

#[derive(Clone, Hash)]
pub struct Refill {
    pub queue: u8,
    pub side: Side,
    pub stage: RefillStage,
    pub number: Mute<u64>,
    pub from: Key,
    pub now: i64,
    /// The horizon of the window when a claim asked for it.
    pub asked_at: Key,
}

#[derive(Clone, Hash, PartialEq, Eq)]
pub enum RefillStage {
    /// Only if rule D3 or T1 is off: what comes too early.
    Early,
    Begin,
    Read,
    Merge,
}

#[derive(Clone, Hash, Default)]
pub struct Sweep {
    pub parts: Vec<(u8, Side, Key, Key)>,
    pub begun: bool,
    /// Rows that it must find.
    pub untold: Vec<u8>,
    pub read: Option<Read>,
}

#[derive(Clone, Hash)]
pub struct Waiting {
    pub queue: u8,
    pub kinds: u8,
    pub place: Option<Mute<u32>>,
    pub stage: WaitStage,
    /// His time is over: he looks for the last time.
    pub is_over: bool,
    pub ticket: Mute<u64>,
    /// Then he looks by himself.
    pub until: i64,
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub enum WaitStage {
    Join,
    Look,
    Decide,
    Asleep,
    /// Awake, though he sleeps: he looks again by himself.
    Nap,
    Leave(Why),
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub enum Why {
    Found,
    Over,
    Cancelled,
}

#[derive(Clone, Hash, Default)]
pub struct Session {
    /// The last one comes first.
    pub script: Vec<Op>,
    pub tx: Option<Tx>,
    pub ending: Option<Ending>,
    /// The subtransaction that is being undone.
    pub undo: Option<u32>,
    pub claim: Option<Claim>,
    pub refill: Option<Refill>,
    pub read: Option<Read>,
    pub merged: usize,
    pub sweep: Option<Sweep>,
    pub waiting: Option<Waiting>,
    pub latch: bool,
    /// Rows it has claimed.
    pub held: Vec<u8>,
    /// The claim of this transaction has found a job.
    pub found: bool,
}

#[derive(Clone, Hash)]
pub struct Prepared {
    pub holder: u8,
    pub changes: Vec<Change>,
}

/// How often what need not happen may happen.
#[derive(Clone, Copy, Hash, Default)]
pub struct Budget {
    pub ticks: u8,
    pub steps_back: u8,
    pub small_steps_back: u8,
    pub crashes: u8,
    pub fails: u8,
    pub time_outs: u8,
    pub cancels: u8,
}

#[derive(Clone)]
pub struct World {
    pub setup: Rc<Setup>,
    pub now: i64,
    pub memory: Memory,
    pub rows: Vec<Row>,
    pub sessions: Vec<Session>,
    pub prepared: Vec<Prepared>,
    pub budget: Budget,
    pub tickets: u64,
    /// How many jobs were handed out.
    pub handed_out: u64,
    /// What was found to be wrong in a step.
    pub wrong: Option<String>,
    pub log: Option<Vec<String>>,
}

impl World {
    pub fn new(setup: Setup, budget: Budget, scripts: &[Vec<Op>]) -> World {
        let rows = setup.jobs.iter().map(|job| Row {
            committed: Version { state: State::Absent, ..*job },
            holder: None,
            untold: false,
            is_quiet: false,
        });
        World {
            now: 100 * SECOND,
            memory: Memory::new(setup.places, setup.slots, setup.waiters),
            rows: rows.collect(),
            sessions: scripts
                .iter()
                .map(|script| Session { script: script.iter().rev().cloned().collect(), ..Session::default() })
                .collect(),
            prepared: Vec::new(),
            budget,
            tickets: 0,
            handed_out: 0,
            wrong: None,
            log: None,
            setup: Rc::new(setup),
        }
    }

    pub fn say(&mut self, who: Option<usize>, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(who.map_or_else(what_is, |who| format!("s{who}: ")) + &what());
        }
        fn what_is() -> String {
            "--: ".into()
        }
    }

    pub fn blame(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }

    /// The rows as a session sees them: what is committed, and its own changes.
    pub fn view(&self, who: usize) -> Vec<Version> {
        let mut view: Vec<Version> = self.rows.iter().map(|row| row.committed).collect();
        for change in self.sessions[who].tx.iter().flat_map(|tx| &tx.changes) {
            view[change.row as usize] = change.version;
        }
        view
    }

    pub fn tx(&mut self, who: usize) -> &mut Tx {
        self.sessions[who].tx.get_or_insert_with(|| Tx { subs: vec![1], last_sub: 1, ..Tx::default() })
    }

    /// Writes a row, which this session holds or which is free.
    pub fn write(&mut self, who: usize, version: Version) {
        let row = version.row();
        self.rows[row].holder = Some(who as u8);
        let tx = self.tx(who);
        let sub = tx.sub();
        tx.changes.push(Change { row: row as u8, sub, version });
    }

    /// Who is woken finds his latch set.
    pub fn wake(&mut self, owners: &[u64]) {
        for owner in owners {
            let session = (*owner - 1) as usize;
            self.sessions[session].latch = true;
            self.say(Some(session), || "is woken".into());
        }
    }
}

/// The kinds of a filter; none: any.
pub fn kinds_of(filter: u8) -> Vec<u32> {
    (0..8u32).filter(|kind| filter >> kind & 1 == 1).collect()
}

pub fn wants(filter: u8, kind: u32) -> bool {
    filter == 0 || filter >> kind & 1 == 1
}
