//! Which queues have had jobs made ready since the maintainer last told those who LISTEN (jobq.notify_channel).
//!
//! One bit is for all queues whose numbers have the same remainder. Commits set bits; the maintainer takes them away and notifies.

use super::{server, shmem};
use crate::dispatch::stripe::QueueKey;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

const BELLS: u32 = 1_024;
const WORD: u32 = 64;

/// The bells of one database, in shared memory; zero to begin with.
pub(super) struct Bells {
    /// Does anybody care? 1 or 0.
    listened: AtomicU32,
    rung: [AtomicU64; (BELLS / WORD) as usize],
}

fn bells(database: u32) -> Option<&'static Bells> {
    shmem::bells(database).filter(|bells| bells.listened.load(SeqCst) != 0)
}

/// Are those who LISTEN to be told of jobs of this database?
pub(super) fn is_listened(database: u32) -> bool {
    bells(database).is_some()
}

/// A queue has had a job made ready. Neither allocates nor raises.
pub(super) fn ring(key: &QueueKey) {
    let Some(bells) = bells(key.database) else { return };
    let n = (key.queue as u32) % BELLS;
    let bit = 1u64 << (n % WORD);
    let before = bells.rung.get((n / WORD) as usize).map(|word| word.fetch_or(bit, SeqCst));
    if before.is_some_and(|before| before & bit == 0) {
        shmem::wake_maintainer(key.database);
    }
}

/// Any queue of this database may have had one. Neither allocates nor raises.
pub(super) fn ring_all() {
    let database = server::database_oid().to_u32();
    if let Some(bells) = bells(database) {
        bells.rung.iter().for_each(|word| word.store(u64::MAX, SeqCst));
        shmem::wake_maintainer(database);
    }
}

/// The setting, as the maintainer has just read it.
pub fn listen(is_wanted: bool) {
    if let Some(bells) = shmem::bells(server::database_oid().to_u32()) {
        bells.listened.store(u32::from(is_wanted), SeqCst);
    }
}

pub fn is_rung() -> bool {
    bells(server::database_oid().to_u32()).is_some_and(|bells| bells.rung.iter().any(|word| word.load(SeqCst) != 0))
}

/// Takes the bits away: the queues are those whose numbers have one of these remainders when divided by the second.
pub fn take() -> (Vec<i64>, i64) {
    let mut remainders = Vec::new();
    if let Some(bells) = bells(server::database_oid().to_u32()) {
        for (n, word) in (0i64..).zip(&bells.rung) {
            let bits = word.swap(0, SeqCst);
            remainders.extend(
                (0..i64::from(WORD))
                    .filter(|bit| bits >> bit & 1 == 1)
                    .map(|bit| n.saturating_mul(i64::from(WORD)).saturating_add(bit)),
            );
        }
    }
    (remainders, i64::from(BELLS))
}

/// They could not be told.
pub fn put_back(remainders: &[i64]) {
    if let Some(bells) = bells(server::database_oid().to_u32()) {
        for n in remainders.iter().filter_map(|n| u32::try_from(*n).ok()) {
            if let Some(word) = bells.rung.get((n / WORD) as usize) {
                word.fetch_or(1 << (n % WORD), SeqCst);
            }
        }
    }
}
