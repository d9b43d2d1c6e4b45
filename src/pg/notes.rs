//! What a transaction has made ready, and what had been ready when it took hold of it.
//!
//! A job is offered to the dispatcher by the transaction that makes it ready, when it has committed; and by a transaction that locked
//! or changed a ready job, when it has rolled back: until then the job is proposed to nobody. A transaction remembers a fixed number
//! of jobs; of more it only remembers where they begin, and what lies from there on is unknown afterwards.
//!
//! What runs in callbacks neither allocates nor raises.

use super::stripes::{self, Refill};
use super::switch::table_oid;
use super::{doorbell, server, shmem};
use crate::dispatch::stripe::QueueKey;
use crate::dispatch::{Candidate, Key};
use crate::error::Error;
use pgrx::pg_sys;
use std::cell::UnsafeCell;

/// A statement that locks pending jobs is running: which ones is not known yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsure {
    No,
    /// One job.
    Job,
    /// Some of this queue.
    Queue(QueueKey),
}

impl Unsure {
    /// The statement has failed halfway.
    fn act(self) {
        match self {
            Unsure::No => {}
            Unsure::Job => shmem::ask_for_a_sweep(),
            Unsure::Queue(key) => stripes::let_go(&key, Key::MIN, Key::MIN),
        }
    }
}

/// When a note is to be acted upon. A note that is for nothing is done with.
#[derive(Clone, Copy, PartialEq, Eq)]
struct When {
    commit: bool,
    abort: bool,
}

const NEVER: When = When { commit: false, abort: false };

#[derive(Clone, Copy)]
struct Note {
    key: QueueKey,
    candidate: Candidate,
    subtransaction: pg_sys::SubTransactionId,
    when: When,
}

/// Where the jobs of one queue begin that were too many.
#[derive(Clone, Copy)]
struct Crowd {
    key: QueueKey,
    commit: Begin,
    abort: Begin,
}

#[derive(Clone, Copy)]
struct Begin {
    ready: Key,
    due: Key,
}

impl Begin {
    const NOWHERE: Begin = Begin { ready: Key::MAX, due: Key::MAX };

    fn include(&mut self, other: &Begin) {
        self.ready = self.ready.min(other.ready);
        self.due = self.due.min(other.due);
    }
}

const NOTES: usize = 256;
const CROWDS: usize = 16;

struct Notes {
    list: [Note; NOTES],
    count: usize,
    crowds: [Crowd; CROWDS],
    crowd_count: usize,
    /// Too many queues with too many jobs.
    all: bool,
    unsure: Unsure,
    /// Jobs of this transaction's own making are in the heap only: was one made ready?
    made_ready: bool,
    refill: Option<(Refill, pg_sys::SubTransactionId)>,
}

const NO_KEY: QueueKey = QueueKey { database: 0, installation: 0, queue: 0 };
const NO_CANDIDATE: Candidate = Candidate { priority: 0, run_at: 0, id: 0, kind: 0 };

struct Mine(UnsafeCell<Notes>);
// SAFETY: a backend runs on one thread.
unsafe impl Sync for Mine {}
static MINE: Mine = Mine(UnsafeCell::new(Notes {
    list: [Note { key: NO_KEY, candidate: NO_CANDIDATE, subtransaction: 0, when: NEVER }; NOTES],
    count: 0,
    crowds: [Crowd { key: NO_KEY, commit: Begin::NOWHERE, abort: Begin::NOWHERE }; CROWDS],
    crowd_count: 0,
    all: false,
    unsure: Unsure::No,
    made_ready: false,
    refill: None,
}));

fn mine() -> &'static mut Notes {
    // SAFETY: one thread; no function in this file calls another one of it, or the server, while it holds the reference, but for
    // callbacks that cannot come in between.
    unsafe { &mut *MINE.0.get() }
}

fn subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: a read of this backend's transaction state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// The place of a note.
#[derive(Clone, Copy)]
pub struct Place(Option<usize>);

fn note(key: &QueueKey, candidate: Candidate, when: When) -> Place {
    if !stripes::attached() {
        return Place(None);
    }
    let subtransaction = subtransaction();
    let notes = mine();
    if let Some(slot) = notes.list.get_mut(notes.count) {
        *slot = Note { key: *key, candidate, subtransaction, when };
        notes.count = notes.count.saturating_add(1);
        return Place(notes.count.checked_sub(1));
    }
    // What is scheduled when it is noted may be ready when the transaction ends: it counts for both sides.
    let due = if candidate.run_at > server::wall_clock_micros() { candidate.due_key() } else { Key::MAX };
    crowd(key, Begin { ready: candidate.ready_key(), due }, when);
    Place(None)
}

fn crowd(key: &QueueKey, begin: Begin, when: When) {
    let notes = mine();
    let known = notes.crowds.iter().take(notes.crowd_count).position(|crowd| crowd.key == *key);
    let at = known.unwrap_or(notes.crowd_count);
    let Some(crowd) = notes.crowds.get_mut(at) else {
        notes.all = true;
        return;
    };
    if known.is_none() {
        *crowd = Crowd { key: *key, commit: Begin::NOWHERE, abort: Begin::NOWHERE };
        notes.crowd_count = notes.crowd_count.saturating_add(1);
    }
    if when.commit {
        crowd.commit.include(&begin);
    }
    if when.abort {
        crowd.abort.include(&begin);
    }
}

/// The queue of the installation of this database.
pub fn key(queue: i32) -> QueueKey {
    stripes::key(table_oid(c"_job"), queue)
}

/// This transaction makes a job ready, or scheduled.
pub fn made_ready(key: &QueueKey, candidate: Candidate) {
    note(key, candidate, When { commit: true, abort: false });
    mine().made_ready = true;
}

/// This transaction takes a pending job away, or is about to. To be said before anything can go wrong.
pub fn takes(key: &QueueKey, candidate: Candidate) -> Place {
    note(key, candidate, When { commit: false, abort: true })
}

/// This transaction has locked a pending job.
pub fn locked(key: &QueueKey, candidate: Candidate) {
    note(key, candidate, When { commit: true, abort: true });
}

/// Runs a statement that locks a pending job, and notes it. Should it fail halfway, a sweep looks for the job.
pub fn unsure_of_one<T>(statement: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    unsure(Unsure::Job, statement)
}

/// Runs a statement that locks pending jobs of a queue, and notes them. Should it fail halfway, nothing is known of the queue any more.
pub fn unsure_of<T>(key: &QueueKey, statement: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    unsure(Unsure::Queue(*key), statement)
}

fn unsure<T>(of: Unsure, statement: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    mine().unsure = of;
    let outcome = statement()?;
    mine().unsure = Unsure::No;
    Ok(outcome)
}

/// What was taken turned out to be this.
pub fn took(key: &QueueKey, place: Place, candidate: Candidate) {
    match place.0.and_then(|at| mine().list.get_mut(at)) {
        Some(note) => note.candidate = candidate,
        None => _ = takes(key, candidate),
    }
}

/// It was not taken after all: somebody else has it.
pub fn not_taken(place: Place) {
    let Some(at) = place.0 else { return };
    let notes = mine();
    if let Some(note) = notes.list.get_mut(at) {
        note.when = NEVER;
    }
    if at.saturating_add(1) == notes.count {
        notes.count = at;
    }
}

/// Are there jobs that only this transaction can see as ready?
pub fn has_made_ready() -> bool {
    mine().made_ready
}

/// A refill has begun in this transaction.
pub fn refill_begins(refill: Refill) {
    mine().refill = Some((refill, subtransaction()));
}

pub fn refill_ended() {
    mine().refill = None;
}

/// All queues of this database are to be forgotten when the transaction ends.
pub fn forget_all() {
    mine().all = stripes::attached();
}

/// A queue is to be forgotten when the transaction ends.
pub fn forget(key: &QueueKey) {
    if stripes::attached() {
        crowd(key, Begin { ready: Key::MIN, due: Key::MIN }, When { commit: true, abort: true });
    }
}

/// A queue goes on: who waits for its jobs is to look when the transaction has committed.
pub fn resumed(key: &QueueKey) {
    if stripes::attached() {
        crowd(key, Begin::NOWHERE, When { commit: true, abort: false });
    }
}

/// The end of a subtransaction that is undone. Numbers of subtransactions grow: its own ones come behind it.
pub(super) fn subtransaction_aborts(subtransaction: pg_sys::SubTransactionId) {
    let notes = mine();
    if let Some((refill, _)) = notes.refill.filter(|(_, begun_in)| *begun_in >= subtransaction) {
        notes.refill = None;
        stripes::abandon(&refill);
    }
    std::mem::replace(&mut notes.unsure, Unsure::No).act();
    if notes.all {
        stripes::forget_database(server::database_oid().to_u32());
    }
    let first = notes.list.iter().take(notes.count).position(|note| note.subtransaction >= subtransaction);
    if let Some(first) = first {
        let undone = notes.list.get_mut(first..notes.count).unwrap_or_default();
        // What an outer one noted later stays.
        act(undone, |note| note.subtransaction >= subtransaction && note.when.abort);
        for note in undone.iter_mut().filter(|note| note.subtransaction >= subtransaction) {
            note.when = NEVER;
        }
    }
    for crowd in notes.crowds.iter().take(notes.crowd_count) {
        stripes::let_go(&crowd.key, crowd.abort.ready, crowd.abort.due);
    }
}

/// The end of the transaction.
pub(super) fn transaction_ends(committed: bool) {
    let notes = mine();
    if let Some((refill, _)) = notes.refill.take() {
        stripes::abandon(&refill);
    }
    if committed {
        ring(notes);
    }
    if notes.count > 0 {
        let list = notes.list.get_mut(..notes.count).unwrap_or_default();
        act(list, |note| if committed { note.when.commit } else { note.when.abort });
    }
    for crowd in notes.crowds.iter().take(notes.crowd_count) {
        let begin = if committed { &crowd.commit } else { &crowd.abort };
        stripes::let_go(&crowd.key, begin.ready, begin.due);
    }
    notes.unsure.act();
    if notes.all {
        stripes::forget_database(server::database_oid().to_u32());
    }
    transaction_is_prepared();
}

/// Tells of the queues that have jobs now. Those who wait are woken by what is offered, those who LISTEN by this.
fn ring(notes: &Notes) {
    let now = server::wall_clock_micros();
    for note in notes.list.iter().take(notes.count).filter(|note| note.when.commit && note.candidate.run_at <= now) {
        doorbell::ring(&note.key);
    }
    for crowd in notes.crowds.iter().take(notes.crowd_count) {
        doorbell::ring(&crowd.key);
    }
    if notes.all {
        doorbell::ring_all();
    }
}

/// Whoever commits or rolls back what is prepared has the queues forgotten (super::two_phase).
pub(super) fn transaction_is_prepared() {
    let notes = mine();
    notes.count = 0;
    notes.crowd_count = 0;
    notes.all = false;
    notes.unsure = Unsure::No;
    notes.made_ready = false;
    notes.refill = None;
}

/// Offers what is wanted, the jobs of one queue in one hold of the lock.
fn act(notes: &mut [Note], wanted: impl Fn(&Note) -> bool) {
    let mut rest = notes;
    while let Some(first) = rest.iter().position(&wanted) {
        let (_, behind) = rest.split_at_mut(first);
        let Some(key) = behind.first().map(|note| note.key) else { return };
        stripes::offer(&key, behind.iter().filter(|note| note.key == key && wanted(note)).map(|note| &note.candidate));
        for note in behind.iter_mut().filter(|note| note.key == key) {
            note.when = if wanted(note) { NEVER } else { note.when };
        }
        rest = behind;
    }
}
