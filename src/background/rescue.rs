//! The duty that takes jobs from lost workers and ends overdue attempts. Also behind `jobq.rescue_zombies`.

use super::pools::keep_leases;
use crate::clock::Timestamp;
use crate::dispatch::leases::JobKey;
use crate::error::Error;
use crate::pg::spi::{Param, Session};
use crate::rules::backoff::Backoff;
use crate::rules::state::{Rescue, State, after_crash, after_failure};
use crate::rules::{lease, ring};
use crate::store::finish::{Cancelled, Requeue};
use crate::store::maintenance::{Search, Zombie};
use crate::{pg, settings, store};
use std::collections::HashSet;
use uuid::Uuid;

/// The maintainer's: rescues and times out up to `batch` jobs, looking at the blocks only that may hold running ones: how many.
pub fn keep_up(session: &Session, batch: i32) -> Result<usize, Error> {
    let search = search(None, true, batch);
    let suspects = match store::maintenance::suspects_nearby(&search)? {
        Some(suspects) => suspects,
        None => store::maintenance::suspects(session, &search)?,
    };
    if suspects.is_empty() { Ok(0) } else { end_zombies(session, &search, &suspects) }
}

/// Rescues and times out up to `batch` jobs: how many. `older_than_ms`: also jobs without a sign of life for that long.
pub fn run(session: &Session, older_than_ms: Option<i64>, deadlines: bool, batch: i32) -> Result<usize, Error> {
    let search = search(older_than_ms, deadlines, batch);
    keep_leases();
    let suspects = store::maintenance::suspects(session, &search)?;
    // With none, too: whoever may not write is to be told.
    end_zombies(session, &search, &suspects)
}

fn search(older_than_ms: Option<i64>, deadlines: bool, batch: i32) -> Search {
    // The clocks are compared before a lease is judged by the wall clock.
    let grace_from = Timestamp(pg::shmem::grace_from_micros());
    let now = Timestamp::now();
    Search {
        now,
        grace_from,
        grace_ms: settings::rescue_grace_ms(),
        not_seen_since: older_than_ms.map(|ms| now.minus_ms(ms)),
        deadlines,
        batch,
        writable_at: pg::shmem::writable_at_micros().map(Timestamp),
    }
}

fn end_zombies(session: &Session, search: &Search, suspects: &[Uuid]) -> Result<usize, Error> {
    let found = store::maintenance::zombies(session, search, suspects)?;
    if found.is_empty() {
        return Ok(0);
    }
    let now = search.now;
    let slot = ring::slot(now.0, ring::width_days(store::queues::longest_retention_ms(session)?));
    end_all(session, &found, now, slot)
}

fn end_all(session: &Session, found: &[Zombie], now: Timestamp, slot: i16) -> Result<usize, Error> {
    for zombie in found {
        end(session, zombie, now, slot)?;
        pg::leases::ends(zombie.id, zombie.lease);
        pg::server::check_for_interrupts();
    }
    Ok(found.len())
}

/// Takes back the jobs of sessions that have ended, some at a time: how many are left, locked by somebody or for the next time.
pub fn release(session: &Session) -> Result<usize, Error> {
    const BATCH: usize = 200;
    let mut released = pg::leases::list(true);
    let later = released.split_off(released.len().min(BATCH)).len();
    if released.is_empty() {
        return Ok(0);
    }
    let (ids, leases): (Vec<Uuid>, Vec<i64>) = released.iter().map(|(key, lease)| (Uuid::from_u128(key.id), *lease)).unzip();
    let now = Timestamp::now();
    let found = store::maintenance::released(session, &ids, &leases)?;
    if !found.is_empty() {
        let slot = ring::slot(now.0, ring::width_days(store::queues::longest_retention_ms(session)?));
        end_all(session, &found, now, slot)?;
    }
    let done: HashSet<u128> = found.iter().map(|zombie| zombie.id.as_u128()).collect();
    released.retain(|(key, _)| !done.contains(&key.id));
    forget_ended(session, released).map(|left| left.saturating_add(later))
}

/// Frees the places of leases that have ended without a word.
pub fn forget_stray_leases(session: &Session) -> Result<usize, Error> {
    forget_ended(session, pg::leases::list(false)).map(|_| 0)
}

/// How many have not ended.
fn forget_ended(session: &Session, listed: Vec<(JobKey, i64)>) -> Result<usize, Error> {
    if listed.is_empty() {
        return Ok(0);
    }
    let (ids, leases): (Vec<Uuid>, Vec<i64>) = listed.iter().map(|(key, lease)| (Uuid::from_u128(key.id), *lease)).unzip();
    let held: HashSet<u128> = store::maintenance::still_held(session, &ids, &leases)?.iter().map(Uuid::as_u128).collect();
    let here = pg::leases::key(Uuid::nil()).installation;
    // Those of an installation that was dropped are gone, too.
    for (key, lease) in listed.iter().filter(|(key, _)| key.installation != here || !held.contains(&key.id)) {
        pg::leases::end(key, *lease);
    }
    Ok(held.len())
}

/// A lease given to nobody: the old holder's no longer matches, whatever becomes of the job.
pub fn fence(previous: i64, now: Timestamp) -> i64 {
    lease::next(previous, lease::clock_part(now.0), lease::random_part(pg::server::random_bits()))
}

fn end(session: &Session, zombie: &Zombie, now: Timestamp, slot: i16) -> Result<(), Error> {
    let fence = fence(zombie.lease, now);
    if zombie.lost { end_lost(session, zombie, fence, now, slot) } else { end_overdue(session, zombie, fence, now, slot) }
}

fn end_lost(session: &Session, zombie: &Zombie, fence: i64, now: Timestamp, slot: i16) -> Result<(), Error> {
    let crashes = zombie.crashes.saturating_add(1);
    let silent_s = now.ms_since(zombie.seen_at) / 1_000;
    let lost = format!("worker {} was lost: last seen {silent_s} s before", zombie.worker);
    match after_crash(zombie.attempt, zombie.max_attempts, crashes, zombie.max_crashes, zombie.cancel_requested) {
        Rescue::Again => {
            let how = Requeue { run_at: None, scheduled: false, attempts_given_back: 0, crashes_added: 1 };
            store::finish::requeue(session, zombie.id, fence, &how, Param::from(lost.as_str()), now)
        }
        Rescue::Cancelled => {
            let how = Cancelled { error: Param::from(lost.as_str()), crashes_added: 1, slot };
            store::finish::archive_cancelled(session, zombie.id, fence, &how, now)
        }
        Rescue::AttemptsSpent => {
            let error = format!("{lost}; no attempt is left");
            store::finish::bury(session, zombie.id, fence, 1, Param::from(error.as_str()), now)
        }
        Rescue::Poison => {
            let error = format!("{lost}; poison: {crashes} workers were lost with this job");
            store::finish::bury(session, zombie.id, fence, 1, Param::from(error.as_str()), now)
        }
    }
}

/// Past its deadline an attempt ends as if it had failed.
fn end_overdue(session: &Session, zombie: &Zombie, fence: i64, now: Timestamp, slot: i16) -> Result<(), Error> {
    let error = Param::from("timed out");
    match after_failure(zombie.attempt, zombie.max_attempts, true, zombie.cancel_requested) {
        State::Cancelled => {
            let how = Cancelled { error, crashes_added: 0, slot };
            store::finish::archive_cancelled(session, zombie.id, fence, &how, now)
        }
        State::Pending => {
            let delay_ms = policy(zombie.backoff.as_deref()).delay_ms(zombie.attempt, pg::server::random_share());
            let how = Requeue {
                run_at: Some(now.plus_ms(delay_ms)),
                scheduled: delay_ms > 0,
                attempts_given_back: 0,
                crashes_added: 0,
            };
            store::finish::requeue(session, zombie.id, fence, &how, error, now)
        }
        _ => store::finish::bury(session, zombie.id, fence, 0, error, now),
    }
}

/// A queue's policy. One that this library cannot read, written by a newer one, counts as the built-in policy: a job must never
/// be stuck for its backoff.
pub fn policy(json: Option<&str>) -> Backoff {
    json.and_then(|text| Backoff::parse(text).ok()).unwrap_or_default()
}
