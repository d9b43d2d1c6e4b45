//! The roster of workers (crate::dispatch::roster): what a transaction changes of it is noted here, and added when it has committed.
//! Memory, locks and counts are those of the numbers of jobs (super::counts).
//!
//! What runs at the end of a transaction neither allocates nor raises.

use super::counts::{self, PARTS, WORKERS_PER_PART};
use super::server;
use super::switch::table_oid;
use crate::dispatch::ledger::Ledger;
use crate::dispatch::roster::{Name, Record, WorkerKey};
use pgrx::pg_sys;
use std::cell::UnsafeCell;

/// Workers whose jobs one transaction can change.
const CHANGES: usize = 256;

type Changes = Ledger<WorkerKey, Record, CHANGES>;

struct Cellar(UnsafeCell<Changes>);
// SAFETY: a backend runs on one thread.
unsafe impl Sync for Cellar {}
static MINE: Cellar = Cellar(UnsafeCell::new(Ledger::new(WorkerKey::NONE, Record::NONE)));

fn mine() -> &'static mut Changes {
    // SAFETY: one thread; no function of this file calls another one of it, or the server, while it holds the reference.
    unsafe { &mut *MINE.0.get() }
}

/// A worker of the installation of this database; None when its name is too long.
pub fn key(name: &[u8]) -> Option<WorkerKey> {
    let (database, installation) = here();
    Some(WorkerKey { database, installation, name: Name::new(name)? })
}

fn here() -> (u32, u32) {
    (server::database_oid().to_u32(), table_oid(c"_job").to_u32())
}

pub(super) fn part_of(key: &WorkerKey) -> usize {
    key.hash() as usize % PARTS
}

/// This transaction makes a worker's finished jobs more, or fewer.
pub fn add(name: &[u8], change: &Record) {
    if !counts::attached() {
        return;
    }
    let key = key(name);
    // SAFETY: a read of this backend's transaction state.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    match key {
        Some(key) => mine().add(&key, change, subtransaction),
        None => mine().lose(),
    }
}

/// This transaction changes more than can be told.
pub(super) fn lose() {
    mine().lose();
}

pub(super) fn subtransaction_aborts(subtransaction: pg_sys::SubTransactionId) {
    mine().undo(subtransaction);
}

/// What a subtransaction has changed is its parent's from here on.
pub(super) fn subtransaction_commits(subtransaction: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    mine().pass_on(subtransaction, parent);
}

pub(super) fn transaction_ends(committed: bool) {
    let changes = mine();
    if committed {
        let mut is_lost = changes.is_lost();
        for (key, change) in changes.iter() {
            let added = counts::with(part_of(key), |part| {
                // SAFETY: a lock is held.
                unsafe { counts::to_be_added() }.is_none_or(|unseen| part.roster().add(key, change, unseen))
            });
            is_lost |= added == Some(false);
        }
        if is_lost {
            counts::ask_for_roster();
        }
    }
    changes.clear();
}

/// Whoever commits what is prepared has the tables counted.
pub(super) fn transaction_is_prepared() {
    mine().clear();
}

/// Is it right, and what this transaction has changed of it?
pub fn is_known() -> bool {
    !mine().is_lost() && counts::is_roster_known()
}

/// What is known of the workers here, and apart from that what this transaction has changed itself.
pub fn tell() -> Vec<(Name, Record)> {
    let (database, installation) = here();
    let mut found = Vec::with_capacity(PARTS.saturating_mul(WORKERS_PER_PART).saturating_add(CHANGES));
    for n in 0..PARTS {
        counts::with(n, |part| found.extend(part.roster().tell(database, installation)));
    }
    let ours = mine().iter().filter(|(key, _)| (key.database, key.installation) == (database, installation));
    found.extend(ours.map(|(key, change)| (key.name, *change)));
    found
}
