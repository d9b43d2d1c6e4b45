//! How many finished jobs of each worker are kept, and when its last one finished: kept up as the numbers of jobs are
//! (super::tally), and counted with them.
//!
//! Zeroed memory is a valid empty roster.

use super::kind_hash;
use super::ledger::Sum;

/// The longest name of a worker (rules::names).
pub const NAME_BYTES: usize = 128;

/// A worker's name, with zeros behind it: text has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Name([u8; NAME_BYTES]);

impl Name {
    /// None for one that is too long.
    pub fn new(bytes: &[u8]) -> Option<Name> {
        let mut name = [0; NAME_BYTES];
        name.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Name(name))
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

/// Which worker of which installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct WorkerKey {
    pub database: u32,
    /// The oid of its job table.
    pub installation: u32,
    pub name: Name,
}

impl WorkerKey {
    pub const NONE: WorkerKey = WorkerKey { database: 0, installation: 0, name: Name([0; NAME_BYTES]) };

    /// Never 0.
    pub fn hash(&self) -> u32 {
        kind_hash(self.name.bytes()).max(1)
    }
}

/// A worker's finished jobs that are kept, or what there are more and fewer of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    pub completed: i64,
    pub failed: i64,
    /// When the last one finished, in microseconds since 2000-01-01; also one that is not kept any more.
    pub finished_at: i64,
}

impl Record {
    pub const NONE: Record = Record { completed: 0, failed: 0, finished_at: 0 };
}

impl Sum for Record {
    fn add(&mut self, other: &Record) {
        self.completed = self.completed.saturating_add(other.completed);
        self.failed = self.failed.saturating_add(other.failed);
        self.finished_at = self.finished_at.max(other.finished_at);
    }
}

/// The record of one worker, and that of the count that is under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Worker {
    key: WorkerKey,
    known: Record,
    fresh: Record,
}

impl Worker {
    pub const NONE: Worker = Worker { key: WorkerKey::NONE, known: Record::NONE, fresh: Record::NONE };
}

pub struct Roster<'m> {
    /// As many as workers: the hash of each one's name. 0: the place is free.
    pub hashes: &'m mut [u32],
    pub workers: &'m mut [Worker],
}

impl Roster<'_> {
    fn worker(&mut self, key: &WorkerKey) -> Option<&mut Worker> {
        let hash = key.hash();
        let is_his = |(place, worker): (&u32, &Worker)| *place == hash && worker.key == *key;
        let at = match self.hashes.iter().zip(self.workers.iter()).position(is_his) {
            Some(at) => at,
            None => {
                let at = self.hashes.iter().position(|place| *place == 0)?;
                *self.hashes.get_mut(at)? = hash;
                *self.workers.get_mut(at)? = Worker { key: *key, ..Worker::NONE };
                at
            }
        };
        self.workers.get_mut(at)
    }

    /// So much changes. `unseen`: a count is under way that does not see it. False without a place.
    pub fn add(&mut self, key: &WorkerKey, change: &Record, unseen: bool) -> bool {
        let Some(worker) = self.worker(key) else { return false };
        worker.known.add(change);
        if unseen {
            worker.fresh.add(change);
        }
        true
    }

    /// The workers of an installation.
    pub fn tell(&self, database: u32, installation: u32) -> impl Iterator<Item = (Name, Record)> {
        let places = self.hashes.iter().zip(self.workers.iter()).filter(|(place, _)| **place != 0).map(|(_, worker)| worker);
        let ours = places.filter(move |worker| (worker.key.database, worker.key.installation) == (database, installation));
        ours.map(|worker| (worker.key.name, worker.known))
    }

    /// A count of this database begins.
    pub fn begin(&mut self, database: u32) {
        for (_, worker) in self.of(database) {
            worker.fresh = Record::NONE;
        }
    }

    /// It has come to its end: what was counted is to be added now. Places without anything are free again.
    pub fn end(&mut self, database: u32) {
        for (place, worker) in self.of(database) {
            worker.known = worker.fresh;
            if worker.known == Record::NONE {
                *place = 0;
            }
        }
    }

    /// Frees the places of other databases' workers.
    pub fn keep_only(&mut self, exists: impl Fn(u32) -> bool) {
        for (place, _) in self.all().filter(|(_, worker)| !exists(worker.key.database)) {
            *place = 0;
        }
    }

    fn of(&mut self, database: u32) -> impl Iterator<Item = (&mut u32, &mut Worker)> {
        self.all().filter(move |(place, worker)| **place != 0 && worker.key.database == database)
    }

    fn all(&mut self) -> impl Iterator<Item = (&mut u32, &mut Worker)> {
        self.hashes.iter_mut().zip(self.workers.iter_mut())
    }
}
