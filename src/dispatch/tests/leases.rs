//! Leases against a sorted map.

use crate::dispatch::leases::{JobKey, Kept, Lease, Leases, Sign, Used};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What may happen. `later` is added to the lease that the job has, or to 10 if it has none.
#[derive(Debug, Clone)]
enum Step {
    Add {
        key: JobKey,
        later: i64,
        length_ms: i64,
        holder: i32,
        claiming: u32,
    },
    End {
        key: JobKey,
        later: i64,
    },
    Keep {
        key: JobKey,
        later: i64,
        length_ms: Option<i64>,
        progress: Option<f64>,
    },
    IsLost {
        key: JobKey,
        later: i64,
        expired: bool,
        silent_for: Option<i64>,
        rescuer: i32,
    },
    /// Somebody writes to the place that he has found.
    Change {
        key: JobKey,
        later: i64,
        cancel_requested: bool,
        length_ms: i64,
    },
    RescuerIsDone(i32),
    ForgetAll {
        database: u32,
    },
    Release(i32),
    ClaimsEnd(i32, Option<u32>),
    Cancel,
    /// Half milliseconds.
    Tick(i64),
    SetWallClock(i64),
}

/// Few enough to meet again. The hash of an id is its halves, xored: most share a chain with others, the same ids of two
/// installations always.
fn key(n: u32) -> JobKey {
    JobKey { database: n % 2 + 1, installation: n / 2 % 2 + 1, id: (u128::from(n / 4 % 3) << 64) | u128::from(n / 12) }
}

/// One in ten is beyond all times.
fn length_ms(n: i64) -> i64 {
    if n < 4 { i64::MAX / 10 } else { n % 4 + 1 }
}

/// A step is one of 45, so that some are more frequent than others. (`prop_oneof` takes far longer than the steps themselves.)
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let numbers = (0..45u32, 0..48u32, 0..8i64, 0..40i64, 1..4i32, 0..16u32);
    let step = numbers.prop_map(|(which, n, later, length, process, more)| {
        let (key, later, length_ms) = (key(n), if later < 2 { 2 * later - 1 } else { 0 }, length_ms(length));
        let (small, flag) = (more / 2 % 4, more.is_multiple_of(2));
        match which {
            0..6 => Step::Add { key, later, length_ms, holder: process, claiming: small },
            6..11 => Step::Add { key, later, length_ms, holder: 0, claiming: 0 },
            11..15 => Step::End { key, later },
            15..20 => Step::Keep { key, later, length_ms: None, progress: flag.then_some(f64::from(small)) },
            20..25 => Step::Keep { key, later, length_ms: Some(length_ms), progress: None },
            25..28 => Step::IsLost { key, later, expired: true, silent_for: None, rescuer: process },
            28..31 => {
                Step::IsLost { key, later, expired: flag, silent_for: small.checked_sub(1).map(i64::from), rescuer: process }
            }
            31..33 => Step::Change { key, later, cancel_requested: flag, length_ms },
            33..35 => Step::RescuerIsDone(process),
            35 => Step::ForgetAll { database: small },
            36 => Step::Release(process),
            37 => Step::ClaimsEnd(process, None),
            38 => Step::ClaimsEnd(process, Some(small)),
            39 => Step::Cancel,
            40 => Step::SetWallClock(length / 2 - 10),
            _ => Step::Tick(small.into()),
        }
    });
    prop::collection::vec(step, 1..400)
}

fn order(key: &JobKey) -> (u32, u32, u128) {
    (key.database, key.installation, key.id)
}

/// All of it but the link.
fn content(lease: &Lease) -> impl PartialEq + std::fmt::Debug + use<> {
    let times = (lease.expires_at, lease.seen_at, lease.length_ms, lease.progress);
    let marks = (lease.holder, lease.claiming, lease.rescuer, lease.reserved);
    (lease.key, lease.lease, times, marks, lease.cancels, lease.cancel_requested, lease.released)
}

/// At most `capacity` leases, one for a job.
struct Naive {
    capacity: usize,
    leases: BTreeMap<(u32, u32, u128), Lease>,
}

impl Naive {
    fn find(&mut self, key: &JobKey, lease: i64) -> Option<&mut Lease> {
        self.leases.get_mut(&order(key)).filter(|known| known.lease == lease)
    }

    fn add(&mut self, new: Lease) -> bool {
        let older = self.leases.get(&order(&new.key)).map(|known| known.lease);
        let added = older.map_or(self.leases.len() < self.capacity, |older| older < new.lease);
        if added {
            self.leases.insert(order(&new.key), new);
        }
        added
    }

    fn end(&mut self, key: &JobKey, lease: i64) {
        if self.find(key, lease).is_some() {
            self.leases.remove(&order(key));
        }
    }

    fn keep(&mut self, key: &JobKey, lease: i64, sign: &Sign) -> Kept {
        let Some(known) = self.find(key, lease) else { return Kept::Missing };
        if known.released {
            return Kept::Released;
        }
        if known.rescuer != 0 || sign.length_ms.is_some_and(|length_ms| length_ms > known.length_ms) {
            return Kept::No;
        }
        known.expires_at = known.expires_at.max(ends_at(sign.now, sign.length_ms.unwrap_or(known.length_ms)));
        known.seen_at = known.seen_at.max(sign.seen_at);
        if let Some(progress) = sign.progress {
            known.progress = progress;
        }
        if known.cancels != sign.cancels {
            return Kept::Unsure;
        }
        Kept::Yes { cancel_requested: known.cancel_requested }
    }

    fn is_lost(&mut self, key: &JobKey, lease: i64, now: i64, expired: bool, since: Option<i64>, rescuer: i32) -> bool {
        let Some(known) = self.find(key, lease) else {
            self.add(Lease { key: *key, lease, rescuer, reserved: true, ..Lease::default() });
            return true;
        };
        let another_is_at_it = known.rescuer != 0 && known.rescuer != rescuer;
        let over = (expired && known.expires_at <= now) || since.is_some_and(|since| known.seen_at < since);
        let lost = !another_is_at_it && (over || known.released || known.reserved);
        if lost {
            known.rescuer = rescuer;
        }
        lost
    }

    fn rescuer_is_done(&mut self, rescuer: i32) {
        self.leases.retain(|_, known| known.rescuer != rescuer || !known.reserved);
        self.leases.values_mut().filter(|known| known.rescuer == rescuer).for_each(|known| known.rescuer = 0);
    }

    fn release(&mut self, holder: i32) -> usize {
        let held = self.leases.values_mut().filter(|known| known.holder == holder && !known.released);
        held.map(|known| known.released = true).count()
    }

    fn claims_end(&mut self, holder: i32, undone_from: Option<u32>) {
        let is_claimed = |known: &Lease| known.holder == holder && known.claiming != 0;
        match undone_from {
            Some(first) => self.leases.retain(|_, known| !is_claimed(known) || known.claiming < first),
            None => self.leases.values_mut().filter(|known| is_claimed(known)).for_each(|known| known.claiming = 0),
        }
    }
}

/// The end of time, should it be later.
fn ends_at(now: i64, length_ms: i64) -> i64 {
    let end = i128::from(now) + i128::from(length_ms) * 1_000;
    end.min(i128::from(i64::MAX)) as i64
}

/// The places in the order in which the chains lead to them: each one once, and at most as many as there are.
fn chained(leases: &Leases<'_>) -> Vec<u32> {
    let mut reached = Vec::new();
    for first in leases.chains.iter() {
        let mut n = *first;
        while n != 0 && reached.len() <= leases.places.len() {
            reached.push(n);
            n = leases.places[n as usize - 1].next;
        }
    }
    reached.sort_unstable();
    reached
}

fn same(leases: &mut Leases<'_>, naive: &Naive) -> Result<(), TestCaseError> {
    prop_assert_eq!(leases.used.count as usize, naive.leases.len());
    prop_assert_eq!(leases.used.released as usize, naive.leases.values().filter(|known| known.released).count());
    let used: Vec<u32> = (1..).zip(leases.places.iter()).filter(|(_, place)| place.lease != 0).map(|(n, _)| n).collect();
    prop_assert_eq!(chained(leases), used);
    for known in naive.leases.values() {
        let found = leases.find(&known.key, known.lease).map(|place| content(place));
        prop_assert_eq!(found, Some(content(known)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Places that run out, are used again and share chains are a sorted map of limited size; in the end all of them are free.
    #[test]
    fn leases_are_a_map(steps in steps(), capacity in 0..30usize) {
        let (mut chains, mut places, mut used) = (vec![0; capacity], vec![Lease::default(); capacity], Used::default());
        let mut leases = Leases { chains: &mut chains, places: &mut places, used: &mut used };
        let mut naive = Naive { capacity, leases: BTreeMap::new() };
        // Of the two clocks one may be set.
        let (mut now, mut wall, mut cancels) = (1_000_000, 9_000_000, 0);
        for step in steps {
            let lease_of = |key: &JobKey, later: i64| naive.leases.get(&order(key)).map_or(10, |known| known.lease) + later;
            match step {
                Step::Add { key, later, length_ms, holder, claiming } => {
                    let lease = lease_of(&key, later);
                    let expires_at = ends_at(now, length_ms);
                    let new = Lease {
                        key, lease, expires_at, seen_at: wall, length_ms, progress: -1.0, holder, claiming, cancels, ..Lease::default()
                    };
                    prop_assert_eq!(leases.add(new), naive.add(new));
                }
                Step::End { key, later } => {
                    let lease = lease_of(&key, later);
                    leases.end(&key, lease);
                    naive.end(&key, lease);
                }
                Step::Keep { key, later, length_ms, progress } => {
                    let lease = lease_of(&key, later);
                    let sign = Sign { now, seen_at: wall, length_ms, progress, cancels };
                    prop_assert_eq!(leases.keep(&key, lease, &sign), naive.keep(&key, lease, &sign));
                }
                Step::IsLost { key, later, expired, silent_for, rescuer } => {
                    let lease = lease_of(&key, later);
                    let since = silent_for.map(|ms| wall - ms * 1_000);
                    prop_assert_eq!(
                        leases.is_lost(&key, lease, now, expired, since, rescuer),
                        naive.is_lost(&key, lease, now, expired, since, rescuer)
                    );
                }
                Step::Change { key, later, cancel_requested, length_ms } => {
                    let lease = lease_of(&key, later);
                    let places = [leases.find(&key, lease), naive.find(&key, lease)];
                    prop_assert_eq!(places[0].is_some(), places[1].is_some());
                    for place in places.into_iter().flatten() {
                        (place.cancels, place.cancel_requested, place.length_ms) = (cancels, cancel_requested, length_ms);
                    }
                }
                Step::RescuerIsDone(rescuer) => {
                    leases.rescuer_is_done(rescuer);
                    naive.rescuer_is_done(rescuer);
                }
                Step::ForgetAll { database } => {
                    leases.forget_all(|key| key.database == database);
                    naive.leases.retain(|_, known| known.key.database != database);
                }
                Step::Release(holder) => prop_assert_eq!(leases.release(holder), naive.release(holder)),
                Step::ClaimsEnd(holder, undone_from) => {
                    leases.claims_end(holder, undone_from);
                    naive.claims_end(holder, undone_from);
                }
                Step::Cancel => cancels += 1,
                Step::Tick(halves) => (now, wall) = (now + halves * 500, wall + halves * 500),
                Step::SetWallClock(halves) => wall += halves * 500,
            }
            same(&mut leases, &naive)?;
        }
        for known in naive.leases.values() {
            leases.end(&known.key, known.lease);
        }
        naive.leases.clear();
        same(&mut leases, &naive)?;
        let new = |id| Lease { key: JobKey { database: 1, installation: 1, id }, lease: 1, ..Lease::default() };
        prop_assert_eq!((0..1_000).filter(|id| leases.add(new(*id))).count(), capacity);
    }
}
