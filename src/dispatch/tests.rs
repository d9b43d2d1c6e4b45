//! The structures against naive ones, and the protocol's invariant in a small world of jobs.

use super::stripe::{Counts, Entry, Found, QueueKey, Search, Side, Stripe};
use super::tree::{Free, Pool, Slot, Tree};
use super::waiters::{Places, Wakes};
use super::{Candidate, Key};
use proptest::prelude::*;
use std::collections::BTreeMap;

mod leases;
mod ledger;
mod lists;
mod oversleeping;
mod roster;
mod tally;
mod waiters;
mod waiting;

fn candidate(priority: i32, run_at: i64, id: u128) -> Candidate {
    Candidate { priority, run_at, id, kind: (id % 3) as u32 }
}

#[derive(Debug, Clone)]
enum SetStep {
    Insert(usize, i32, u128),
    Remove(usize, i32, u128),
    TakeFirst(usize),
    TakeLast(usize),
    After(usize, i32),
    Clear(usize),
}

fn set_steps() -> impl Strategy<Value = Vec<SetStep>> {
    let step = prop_oneof![
        8 => (0..3usize, 0..4i32, 0..40u128).prop_map(|(set, rank, id)| SetStep::Insert(set, rank, id)),
        4 => (0..3usize, 0..4i32, 0..40u128).prop_map(|(set, rank, id)| SetStep::Remove(set, rank, id)),
        2 => (0..3usize).prop_map(SetStep::TakeFirst),
        2 => (0..3usize).prop_map(SetStep::TakeLast),
        2 => (0..3usize, 0..4i32).prop_map(|(set, rank)| SetStep::After(set, rank)),
        1 => (0..3usize).prop_map(SetStep::Clear),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    /// Three sets in one pool are the three sorted maps.
    #[test]
    fn trees_are_sorted_sets(steps in set_steps(), capacity in 1..60usize) {
        let mut slots = vec![Slot::EMPTY; capacity];
        let mut free = Free::default();
        let mut pool = Pool { slots: &mut slots, free: &mut free };
        let mut trees = [Tree::EMPTY; 3];
        let mut naive: [BTreeMap<Key, Candidate>; 3] = Default::default();
        for step in steps {
            match step {
                SetStep::Insert(set, rank, id) => {
                    let new = candidate(rank, 7, id);
                    let key = new.ready_key();
                    prop_assert_eq!(pool.contains(&trees[set], &key), naive[set].contains_key(&key));
                    if !naive[set].contains_key(&key) {
                        let room = naive.iter().map(BTreeMap::len).sum::<usize>() < capacity;
                        prop_assert_eq!(pool.insert(&mut trees[set], key, &new), room);
                        if room {
                            naive[set].insert(key, new);
                        }
                    }
                }
                SetStep::Remove(set, rank, id) => {
                    let key = candidate(rank, 7, id).ready_key();
                    prop_assert_eq!(pool.remove(&mut trees[set], &key), naive[set].remove(&key));
                }
                SetStep::TakeFirst(set) => {
                    prop_assert_eq!(pool.take_first(&mut trees[set]), naive[set].pop_first().map(|entry| entry.1));
                }
                SetStep::TakeLast(set) => {
                    prop_assert_eq!(pool.take_last(&mut trees[set]), naive[set].pop_last().map(|entry| entry.1));
                }
                SetStep::After(set, rank) => {
                    let key = candidate(rank, 7, 20).ready_key();
                    let behind = (std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded);
                    let expected = naive[set].range(behind).next().map(|(key, candidate)| (*key, *candidate));
                    prop_assert_eq!(pool.after(&trees[set], &key), expected);
                }
                SetStep::Clear(set) => {
                    pool.clear(&mut trees[set]);
                    naive[set].clear();
                }
            }
            prop_assert_eq!(pool.used(), naive.iter().map(BTreeMap::len).sum::<usize>());
            for (tree, naive) in trees.iter().zip(&naive) {
                prop_assert_eq!(tree.len(), naive.len());
                prop_assert_eq!(pool.first(tree), naive.keys().next().copied());
                prop_assert_eq!(pool.last(tree), naive.keys().next_back().copied());
            }
        }
    }
}

/// What may happen, one step at a time. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    /// A job becomes visible; its transaction's callback runs later.
    Commit {
        queue: usize,
        priority: i32,
        ahead: i64,
    },
    Callback(usize),
    /// The callback of a transaction with too many jobs.
    BigCallback(usize),
    Claim(usize, Option<u32>),
    /// A claim that was popped commits, or gives its job back.
    ClaimEnds(usize, bool),
    Begin(usize, bool),
    Read(usize),
    Merge(usize),
    Fail(usize),
    Sweep(usize),
    Tick(i64),
    ClockBack,
    Forget(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..2usize, 0..3i32, 0..4i64).prop_map(|(queue, priority, ahead)| Step::Commit { queue, priority, ahead }),
        8 => any::<usize>().prop_map(Step::Callback),
        1 => any::<usize>().prop_map(Step::BigCallback),
        8 => (0..2usize, prop::option::weighted(0.2, 0..3u32)).prop_map(|(queue, kind)| Step::Claim(queue, kind)),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(claim, commits)| Step::ClaimEnds(claim, commits)),
        4 => (0..2usize, any::<bool>()).prop_map(|(queue, due)| Step::Begin(queue, due)),
        5 => any::<usize>().prop_map(Step::Read),
        5 => any::<usize>().prop_map(Step::Merge),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => (0..2usize).prop_map(Step::Sweep),
        4 => (0..3i64).prop_map(Step::Tick),
        1 => Just(Step::ClockBack),
        1 => (0..2usize).prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 1..250)
}

#[derive(Debug, Clone)]
struct Refill {
    queue: usize,
    side: Side,
    number: u64,
    from: Key,
    read: Option<(Vec<Candidate>, Key)>,
}

/// A row of the job table.
#[derive(Debug, Clone)]
struct Row {
    queue: usize,
    job: Candidate,
    /// It was ahead of its time when it was written: only such rows are in the index that the due side reads.
    scheduled: bool,
    /// It came to be ahead of its time when the clock was set back: in no order of times, and for a sweep to find.
    stranded: bool,
}

/// Visible rows that nobody holds, transactions whose callback is still to run, claims, and refills under way.
struct World {
    now: i64,
    next_id: u128,
    rows: BTreeMap<u128, Row>,
    callbacks: Vec<u128>,
    claims: Vec<Row>,
    refills: Vec<Refill>,
}

const SECOND: i64 = 1_000_000;
/// Rows a refill reads.
const ROWS: usize = 3;

fn key_on(side: Side, job: &Candidate) -> Key {
    match side {
        Side::Ready => job.ready_key(),
        Side::Due => job.due_key(),
    }
}

impl World {
    /// What a refill reads: rows, and the key it has read up to.
    fn read(&self, queue: usize, side: Side, from: Key, now: i64) -> (Vec<Candidate>, Key) {
        let on_side = |row: &&Row| row.queue == queue && if side == Side::Due { row.scheduled } else { row.job.run_at <= now };
        let mut rows: Vec<Candidate> = self.rows.values().filter(on_side).map(|row| row.job).collect();
        rows.retain(|job| key_on(side, job) >= from);
        rows.sort_by_key(|job| key_on(side, job));
        let next = rows.get(ROWS).map_or(Key::MAX, |job| key_on(side, job));
        rows.truncate(ROWS);
        (rows, next)
    }

    /// Rows that a claim must find if it finds any, or wait for.
    fn known(&self, queue: usize, kind: Option<u32>) -> impl Iterator<Item = &Candidate> {
        let known = move |row: &&Row| {
            row.queue == queue
                && !row.stranded
                && !self.callbacks.contains(&row.job.id)
                && kind.is_none_or(|kind| row.job.kind == kind)
        };
        self.rows.values().filter(known).map(|row| &row.job)
    }

    fn sweep(&mut self, stripe: &mut Stripe<'_>, at: usize, queue: usize) {
        for row in self.rows.values_mut().filter(|row| row.queue == queue) {
            stripe.offer(at, &row.job, self.now);
            row.stranded &= row.job.run_at > self.now;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Every visible job that nobody holds and whose callback has run is in its set, or behind the horizon of a side that says
    /// "refill". No job comes before its time, twice, or out of order.
    #[test]
    fn no_job_is_forgotten(steps in steps(), capacity in 1..12usize) {
        let mut entries = [Entry::EMPTY; 2];
        let mut slots = vec![Slot::EMPTY; capacity];
        let (mut free, mut counts) = (Free::default(), Counts::default());
        let mut stripe = Stripe { entries: &mut entries, slots: &mut slots, free: &mut free, counts: &mut counts,
            waiters: &mut [], places: &mut Places::default(), wakes: &mut Wakes::none() };
        let at: Vec<usize> = (0..2).filter_map(|queue| stripe.entry(&QueueKey { database: 1, installation: 2, queue })).collect();
        prop_assert_eq!(at.len(), 2);
        let mut world = World {
            now: 100 * SECOND, next_id: 1, rows: BTreeMap::new(), callbacks: vec![], claims: vec![], refills: vec![],
        };
        for step in steps {
            match step {
                Step::Commit { queue, priority, ahead } => {
                    let job = candidate(priority, world.now + ahead * SECOND / 2, world.next_id);
                    world.next_id += 1;
                    world.rows.insert(job.id, Row { queue, job, scheduled: ahead > 0, stranded: false });
                    world.callbacks.push(job.id);
                }
                Step::Callback(n) if !world.callbacks.is_empty() => {
                    let id = world.callbacks.swap_remove(n % world.callbacks.len());
                    // Somebody may have claimed it in between: an offer too many is no harm.
                    if let Some(row) = world.rows.get(&id) {
                        stripe.offer(at[row.queue], &row.job, world.now);
                    }
                }
                Step::BigCallback(n) if !world.callbacks.is_empty() => {
                    let id = world.callbacks.swap_remove(n % world.callbacks.len());
                    if let Some(row) = world.rows.get(&id) {
                        stripe.let_go(at[row.queue], Side::Ready, row.job.ready_key());
                        stripe.let_go(at[row.queue], Side::Due, row.job.due_key());
                    }
                }
                Step::Claim(queue, kind) => {
                    let found = stripe.take(at[queue], world.now, &mut Search::begin(), |candidate| kind.is_none_or(|kind| candidate.kind == kind));
                    // A second of looking back is within the clock's tolerance.
                    let now = stripe.clock(at[queue], world.now);
                    let due: Vec<Key> = world.known(queue, kind).filter(|job| job.run_at <= now).map(Candidate::ready_key).collect();
                    match found {
                        Found::Candidate(candidate) => {
                            prop_assert!(candidate.run_at <= now, "before its time");
                            // A candidate whose row is held or gone is dropped.
                            if let Some(row) = world.rows.remove(&candidate.id) {
                                prop_assert!(due.iter().all(|key| *key >= row.job.ready_key()), "{:?} comes before {:?}", row, due);
                                world.claims.push(row);
                            }
                        }
                        Found::Nothing { until } => {
                            prop_assert!(due.is_empty(), "nothing, but {:?}", due);
                            let next = world.known(queue, kind).map(|job| job.run_at).min();
                            prop_assert!(next.is_none_or(|next| until <= next), "sleeps past {:?}", next);
                        }
                        Found::Short(_) | Found::TooFar | Found::Again => {}
                    }
                }
                Step::ClaimEnds(n, commits) if !world.claims.is_empty() => {
                    let row = world.claims.swap_remove(n % world.claims.len());
                    if !commits {
                        // Rolled back: visible again, and its callback is still to run.
                        world.callbacks.push(row.job.id);
                        world.rows.insert(row.job.id, row);
                    }
                }
                Step::Begin(queue, due) => {
                    let side = if due { Side::Due } else { Side::Ready };
                    if let Some((number, from)) = stripe.begin(at[queue], side, world.now) {
                        world.refills.push(Refill { queue, side, number, from, read: None });
                    }
                }
                Step::Read(n) if !world.refills.is_empty() => {
                    let n = n % world.refills.len();
                    let Refill { queue, side, from, .. } = world.refills[n];
                    let now = stripe.clock(at[queue], world.now);
                    if world.refills[n].read.is_none() {
                        world.refills[n].read = Some(world.read(queue, side, from, now));
                    }
                }
                Step::Merge(n) if !world.refills.is_empty() => {
                    let n = n % world.refills.len();
                    if let Some((rows, next)) = world.refills[n].read.clone() {
                        let refill = world.refills.swap_remove(n);
                        if stripe.merge(at[refill.queue], refill.side, refill.number, &rows) {
                            stripe.end(at[refill.queue], refill.side, refill.number, next);
                        }
                    }
                }
                Step::Fail(n) if !world.refills.is_empty() => {
                    let refill = world.refills.swap_remove(n % world.refills.len());
                    stripe.abandon(at[refill.queue], refill.side, refill.number);
                }
                Step::Sweep(queue) => world.sweep(&mut stripe, at[queue], queue),
                Step::Tick(halves) => world.now += halves * SECOND / 2,
                Step::ClockBack => {
                    world.now -= 3 * SECOND;
                    let now = world.now;
                    world.rows.values_mut().chain(&mut world.claims).for_each(|row| row.stranded |= !row.scheduled && row.job.run_at > now);
                }
                Step::Forget(queue) => stripe.forget(at[queue]),
                _ => {}
            }
        }
        // In the end every job comes out, in order, with refills where the stripe asks for them.
        for refill in std::mem::take(&mut world.refills) {
            stripe.abandon(at[refill.queue], refill.side, refill.number);
        }
        world.now += 1_000 * SECOND;
        for id in std::mem::take(&mut world.callbacks) {
            if let Some(row) = world.rows.get(&id) {
                stripe.offer(at[row.queue], &row.job, world.now);
            }
        }
        for (queue, at) in at.iter().copied().enumerate() {
            world.sweep(&mut stripe, at, queue);
            let mut came = Vec::new();
            for _ in 0..2_000 {
                match stripe.take(at, world.now, &mut Search::begin(), |_| true) {
                    Found::Candidate(candidate) => came.extend(world.rows.remove(&candidate.id).map(|row| row.job.ready_key())),
                    Found::Nothing { .. } => break,
                    Found::TooFar | Found::Again => {}
                    Found::Short(side) => {
                        let Some((number, from)) = stripe.begin(at, side, world.now) else { continue };
                        let (rows, next) = world.read(queue, side, from, world.now);
                        stripe.merge(at, side, number, &rows);
                        stripe.end(at, side, number, next);
                    }
                }
            }
            prop_assert_eq!(world.rows.values().filter(|row| row.queue == queue).count(), 0, "left behind");
            prop_assert!(came.is_sorted(), "out of order: {:?}", came);
        }
    }
}
