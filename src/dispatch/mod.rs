//! What shared memory knows: which ready jobs there are, in the order of claims, who waits for them, and which leases are kept. All
//! within a fixed number of slots. The heap stays the truth; all of this may be forgotten at any moment.
//!
//! Fixed memory, no allocation, no panic, no Postgres. Zeroed memory is a valid empty stripe.
//!
//! * `leases`: until when jobs are held whose workers send heartbeats.
//! * `tally`: how many jobs there are, and how many have finished today.
//! * `roster`: how many finished jobs of each worker are kept.
//! * `ledger`: what a transaction has changed of these two and has yet to tell them.
//! * `tree`: ordered sets that share one pool of slots.
//! * `window`: one ordered set, and what is vouched for about the jobs that are not in it.
//! * `waiters`: who waits for a job, and who is woken.
//! * `stripe`: the windows and waiters of several queues on one pool, and who gives way when it is full.

pub mod leases;
pub mod ledger;
pub mod roster;
pub mod stripe;
pub mod tally;
pub mod tree;
pub mod waiters;
pub mod window;

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;

/// The place of a candidate in its set. Ready jobs stand in the order of claims: (priority, run_at, id). Jobs that are ahead of their
/// time stand in the order in which they fall due: (run_at, id), with `rank` 0. `MIN` stands before and `MAX` behind all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key {
    pub rank: i32,
    pub run_at: i64,
    pub id: u128,
}

impl Key {
    pub const MIN: Key = Key { rank: i32::MIN, run_at: i64::MIN, id: 0 };
    pub const MAX: Key = Key { rank: i32::MAX, run_at: i64::MAX, id: u128::MAX };
}

/// A job that may be claimed, or will be when its time has come. Times are microseconds since 2000-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub priority: i32,
    pub run_at: i64,
    pub id: u128,
    /// A hash of the job's kind: equal kinds have equal hashes.
    pub kind: u32,
}

impl Candidate {
    pub fn ready_key(&self) -> Key {
        Key { rank: self.priority, run_at: self.run_at, id: self.id }
    }

    pub fn due_key(&self) -> Key {
        Key { rank: 0, run_at: self.run_at, id: self.id }
    }
}

/// Equal kinds have equal hashes. (FNV-1a, 32 bits: Fowler, Noll and Vo.)
pub fn kind_hash(kind: &[u8]) -> u32 {
    kind.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
