//! What a lease holder may do: complete, complete_many, fail, release, heartbeat, heartbeat_many.

use super::claim::{self, lease_ms};
use super::{fits, history_slot, known_history_slot, required, result};
use crate::background::rescue::policy;
use crate::clock::Timestamp;
use crate::dispatch::leases::Kept;
use crate::error::Error;
use crate::pg;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::datum::{JsonKind, Jsonb, Text};
use crate::pg::spi::{Param, Session};
use crate::pg::switch::as_owner;
use crate::rules::limits::{AHEAD_MAX_MS, BATCH_MAX, ERROR_BYTES, NOTE_CHARS};
use crate::rules::state::{State, after_failure};
use crate::store::direct::Finished;
use crate::store::finish::{Cancelled, Requeue, Sign};
use crate::{settings, store};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Why a lease was refused.
fn refusal(session: &Session, id: Uuid, lease: i64, now: Timestamp) -> Result<Error, Error> {
    Ok(match store::operate::whereabouts(session, id, now)? {
        Some(job) if job.state.is_final() && job.lease == lease => Error::AlreadyFinished { id, state: job.state.to_string() },
        None => Error::NoSuchJob { id },
        Some(job) if job.state == State::Running && job.lease == lease => Error::Contended,
        Some(job) if job.state == State::Running => Error::LeaseLost { id, now: format!("Worker {} holds it now.", job.worker) },
        Some(job) => Error::LeaseLost { id, now: format!("The job is {} now.", job.state) },
    })
}

/// `jobq.complete(id, lease, result)`
pub fn complete(call: &Call) -> Outcome {
    let id = required(call.uuid(0), "id")?;
    let lease = required(call.bigint(1), "lease")?;
    complete_job(id, lease, result(call.jsonb(2))?)?;
    Ok(Answer::Text(State::Completed.word().into()))
}

pub(crate) fn complete_job(id: Uuid, lease: i64, result: Option<Jsonb>) -> Result<(), Error> {
    let now = Timestamp::now();
    if !complete_directly(&[Finished { id, lease, result }], now)?.is_empty() {
        pg::leases::ends(id, lease);
        return Ok(());
    }
    as_owner(|session| {
        for _ in 0..COMPLETE_TRIES {
            if complete_either_way(session, id, lease, now, result)? {
                return Ok(());
            }
            match refusal(session, id, lease, now)? {
                // keep_completed was changed between the two.
                Error::Contended => pg::server::check_for_interrupts(),
                refusal => return Err(refusal),
            }
        }
        Err(Error::Contended)
    })?;
    pg::leases::ends(id, lease);
    Ok(())
}

const COMPLETE_TRIES: usize = 10;

/// The ids that were completed. The others' leases are stale, or it takes a statement to tell.
fn complete_directly(given: &[Finished], now: Timestamp) -> Result<Vec<Uuid>, Error> {
    let Some(slot) = known_history_slot(now) else { return Ok(Vec::new()) };
    Ok(store::direct::complete(given, now, slot)?.unwrap_or_default())
}

/// Which of the two statements fits depends on the queue; the last job's is tried first, the other one if it finds nothing.
fn complete_either_way(session: &Session, id: Uuid, lease: i64, now: Timestamp, result: Option<Jsonb>) -> Result<bool, Error> {
    thread_local! { static KEEPS: Cell<bool> = const { Cell::new(true) } }
    for keep in [KEEPS.get(), !KEEPS.get()] {
        let done = if keep {
            store::finish::complete_and_keep(session, id, lease, now, result, history_slot(session, now)?)?
        } else {
            store::finish::complete_and_forget(session, id, lease)?
        };
        if done {
            KEEPS.set(keep);
            return Ok(true);
        }
    }
    Ok(false)
}

/// `ids` and `leases`: as long as each other, no duplicates, at most BATCH_MAX.
fn pairs(call: &Call) -> Result<(Vec<Uuid>, Vec<i64>), Error> {
    let ids = required(call.uuids(0, "ids")?, "ids")?;
    let leases = required(call.bigints(1, "leases")?, "leases")?;
    if ids.len() != leases.len() {
        return Err(Error::invalid("leases", "be as many as ids"));
    }
    if ids.len() > BATCH_MAX as usize {
        let (limit, size) = (format!("{BATCH_MAX} elements"), format!("{} elements", ids.len()));
        return Err(Error::TooLong { argument: "ids", limit, size });
    }
    if ids.iter().collect::<HashSet<_>>().len() != ids.len() {
        return Err(Error::invalid("ids", "not repeat an id"));
    }
    Ok((ids, leases))
}

fn results(document: Option<Jsonb>, count: usize) -> Result<Option<Jsonb>, Error> {
    let Some(document) = document else { return Ok(None) };
    if document.kind() != JsonKind::Array || document.element_count() != count {
        return Err(Error::invalid("results", "be a JSON array as long as ids"));
    }
    fits(document, "results", settings::max_payload_bytes().saturating_mul(count.max(1))).map(Some)
}

/// True: skip what is stale. False: all or nothing.
fn skips_stale(given: Option<&Text>) -> Result<bool, Error> {
    match given.map(|text| text.utf8("on_stale")).transpose()? {
        None | Some("error") => Ok(false),
        Some("skip") => Ok(true),
        Some(other) => Err(Error::invalid_value("on_stale", "be 'error' or 'skip'", other.escape_debug())),
    }
}

/// `jobq.complete_many(ids, leases, results, on_stale)`
pub fn complete_many(call: &Call) -> Outcome {
    let (ids, leases) = pairs(call)?;
    let results = results(call.jsonb(2), ids.len())?;
    let skip = skips_stale(call.text(3).as_ref())?;
    let sink = call.rows();
    let done = complete_all(&ids, &leases, results, skip)?;
    for id in ids {
        sink.put(&[id.into(), done.contains(&id).into()]);
    }
    Ok(Answer::Null)
}

/// `jobq.complete_and_claim(ids, leases, results, queue, batch, worker, lease_for, kinds, bind, on_stale)`
pub fn complete_and_claim(call: &Call) -> Outcome {
    let (ids, leases) = pairs(call)?;
    let results = results(call.jsonb(2), ids.len())?;
    let wanted = claim::wanted(call, [3, 4, 5, 6, 7, 8])?;
    let skip = skips_stale(call.text(9).as_ref())?;
    let sink = call.rows();
    complete_all(&ids, &leases, results, skip)?;
    claim::hand_out(&wanted, &sink)?;
    Ok(Answer::Null)
}

/// Which of the jobs are completed now. `skip`: stale leases are left out; else they are errors.
fn complete_all(ids: &[Uuid], leases: &[i64], results: Option<Jsonb>, skip: bool) -> Result<HashSet<Uuid>, Error> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let now = Timestamp::now();
    let result = |n| results.and_then(|results| results.element(n)).filter(|result| !result.is_null());
    let mut given: Vec<Finished> = ids
        .iter()
        .zip(leases)
        .enumerate()
        .map(|(n, (id, lease))| Finished { id: *id, lease: *lease, result: result(n) })
        .collect();
    // So that two calls with the same jobs in other orders cannot deadlock.
    given.sort_by_key(|job| job.id);
    let mut done: HashSet<Uuid> = complete_directly(&given, now)?.into_iter().collect();
    if done.len() < ids.len() {
        as_owner(|session| {
            let slot = history_slot(session, now)?;
            done.extend(store::finish::complete_many(session, ids, leases, results, now, slot)?);
            match ids.iter().zip(leases).find(|(id, _)| !done.contains(*id)) {
                Some((id, lease)) if !skip => Err(refusal(session, *id, *lease, now)?),
                Some(_) => store::operate::note_left_alone(session, ids),
                None => Ok(()),
            }
        })?;
    }
    for (id, lease) in ids.iter().zip(leases).filter(|(id, _)| done.contains(*id)) {
        pg::leases::ends(*id, *lease);
    }
    Ok(done)
}

/// The error text as it is kept: at most ERROR_BYTES, with a mark where it was cut.
fn kept_error(error: Option<&Text>) -> Param {
    const MARK: &[u8] = b" [cut]";
    match error {
        None => Param::from(""),
        Some(text) if text.bytes().len() <= ERROR_BYTES => Param::from(*text),
        Some(text) => Param::bytes(&[text.clip(ERROR_BYTES.saturating_sub(MARK.len())), MARK].concat()),
    }
}

/// `jobq.fail(id, lease, error, retry_in, retry)`
pub fn fail(call: &Call) -> Outcome {
    let id = required(call.uuid(0), "id")?;
    let lease = required(call.bigint(1), "lease")?;
    let error = kept_error(call.text(2).as_ref());
    let retry_in_ms = call.interval(3).map(|span| span.millis("retry_in", 0, AHEAD_MAX_MS)).transpose()?;
    let retry = call.boolean(4).unwrap_or(true);
    let state = fail_job(id, lease, error, retry_in_ms, retry)?;
    Ok(Answer::Text(state.word().into()))
}

/// The state after.
pub(crate) fn fail_job(id: Uuid, lease: i64, error: Param, retry_in_ms: Option<i64>, retry: bool) -> Result<State, Error> {
    let now = Timestamp::now();
    let state = as_owner(|session| {
        let Some(held) = store::finish::hold(session, id, lease)? else { return Err(refusal(session, id, lease, now)?) };
        let next = after_failure(held.attempt, held.max_attempts, retry, held.cancel_requested);
        match next {
            State::Cancelled => {
                let how = Cancelled { error, crashes_added: 0, slot: history_slot(session, now)? };
                store::finish::archive_cancelled(session, id, lease, &how, now)?;
            }
            State::Pending => {
                let delay_ms = retry_in_ms
                    .unwrap_or_else(|| policy(held.backoff.as_deref()).delay_ms(held.attempt, pg::server::random_share()));
                let how = Requeue {
                    run_at: Some(now.plus_ms(delay_ms)),
                    scheduled: delay_ms > 0,
                    attempts_given_back: 0,
                    crashes_added: 0,
                };
                store::finish::requeue(session, id, lease, &how, error, now)?;
            }
            _ => store::finish::bury(session, id, lease, 0, error, now)?,
        }
        Ok(next)
    })?;
    pg::leases::ends(id, lease);
    Ok(state)
}

/// `jobq.release(id, lease, delay)`
pub fn release(call: &Call) -> Outcome {
    let id = required(call.uuid(0), "id")?;
    let lease = required(call.bigint(1), "lease")?;
    let delay_ms = call.interval(2).map(|span| span.millis("delay", 0, AHEAD_MAX_MS)).transpose()?;
    Ok(Answer::Text(release_job(id, lease, delay_ms)?.word().into()))
}

/// The state after.
pub(crate) fn release_job(id: Uuid, lease: i64, delay_ms: Option<i64>) -> Result<State, Error> {
    let now = Timestamp::now();
    let state = as_owner(|session| {
        let Some(held) = store::finish::hold(session, id, lease)? else { return Err(refusal(session, id, lease, now)?) };
        if held.cancel_requested {
            let how = Cancelled { error: Param::NULL, crashes_added: 0, slot: history_slot(session, now)? };
            store::finish::archive_cancelled(session, id, lease, &how, now)?;
            return Ok(State::Cancelled);
        }
        let how = Requeue {
            run_at: delay_ms.map(|ms| now.plus_ms(ms)),
            scheduled: delay_ms.is_some_and(|ms| ms > 0),
            attempts_given_back: 1,
            crashes_added: 0,
        };
        store::finish::requeue(session, id, lease, &how, Param::NULL, now)?;
        Ok(State::Pending)
    })?;
    pg::leases::ends(id, lease);
    Ok(state)
}

fn progress(given: Option<f64>) -> Result<Option<f64>, Error> {
    match given {
        Some(value) if !(0.0..=100.0).contains(&value) => Err(Error::invalid_value("progress", "be between 0 and 100", value)),
        other => Ok(other),
    }
}

fn note(given: Option<&Text>) -> Result<Param, Error> {
    match given.map(Text::chars) {
        Some(chars) if chars > NOTE_CHARS => Err(Error::TooLong {
            argument: "note",
            limit: format!("{NOTE_CHARS} characters"),
            size: format!("{chars} characters"),
        }),
        _ => Ok(given.copied().into()),
    }
}

/// `jobq.heartbeat(id, lease, lease_for, progress, note)`
pub fn heartbeat(call: &Call) -> Outcome {
    let id = required(call.uuid(0), "id")?;
    let lease = required(call.bigint(1), "lease")?;
    let sign = Sign {
        now: Timestamp::now(),
        lease_ms: lease_ms(call.interval(2))?,
        progress: progress(call.double(3))?,
        note: note(call.text(4).as_ref())?,
    };
    if let Some(cancel_requested) = keep_in_memory(id, lease, &sign)? {
        return Ok(Answer::Bool(!cancel_requested));
    }
    let cancel_requested = match store::direct::heartbeat(id, lease, &sign)?.flatten() {
        Some(cancel_requested) => cancel_requested,
        None => as_owner(|session| match store::finish::heartbeat(session, id, lease, &sign)? {
            Some(cancel_requested) => Ok(cancel_requested),
            None => Err(refusal(session, id, lease, sign.now)?),
        })?,
    };
    if pg::leases::attached() {
        pg::leases::kept_by_row(&pg::leases::key(id), lease, &pg::leases::sign(sign.now, sign.lease_ms, sign.progress));
    }
    Ok(Answer::Bool(!cancel_requested))
}

/// A heartbeat without a write: whether cancellation was asked for. None: it is for the row. A note is always for the row, and so is
/// a lease that gets longer than it was, or whose row is about to say that it has ended.
fn keep_in_memory(id: Uuid, lease: i64, sign: &Sign) -> Result<Option<bool>, Error> {
    const MARGIN_MS: i64 = 1_000;
    if !pg::leases::attached() || !sign.note.is_null() {
        return Ok(None);
    }
    pg::server::refuse_if_read_only(c"jobq.heartbeat()");
    let key = pg::leases::key(id);
    let beat = pg::leases::sign(sign.now, sign.lease_ms, sign.progress);
    match pg::leases::keep(&key, lease, &beat) {
        Kept::Yes { cancel_requested } => return Ok(Some(cancel_requested)),
        Kept::No => return Ok(None),
        Kept::Released => {
            return Err(Error::LeaseLost { id, now: "The session that the job was bound to has ended.".into() });
        }
        Kept::Unsure => {
            let Some(held) = store::direct::held(id, lease)?.flatten() else {
                pg::leases::end(&key, lease);
                return Ok(None);
            };
            pg::leases::looked(&key, lease, beat.cancels, held.cancel_requested);
            return Ok(Some(held.cancel_requested));
        }
        Kept::Missing => {}
    }
    let Some(held) = store::direct::held(id, lease)?.flatten() else { return Ok(None) };
    let is_plain = sign.lease_ms.is_none_or(|ms| ms <= held.lease_ms)
        && held.expires_at.ms_since(Timestamp::now()) > MARGIN_MS
        // A claim that is not committed yet.
        && !held.is_own;
    if !is_plain || !pg::leases::add(&key, lease, &beat, held.lease_ms, held.progress) {
        return Ok(None);
    }
    // Was it ended before it had its place? Afterwards whoever ends it finds the place.
    match store::direct::held(id, lease)?.flatten() {
        Some(held) if held.expires_at > Timestamp::now() => {
            pg::leases::looked(&key, lease, beat.cancels, held.cancel_requested);
            Ok(Some(held.cancel_requested))
        }
        _ => {
            pg::leases::end(&key, lease);
            Ok(None)
        }
    }
}

/// `jobq.heartbeat_many(ids, leases, lease_for)`
pub fn heartbeat_many(call: &Call) -> Outcome {
    let (ids, leases) = pairs(call)?;
    let lease_ms = lease_ms(call.interval(2))?;
    let sink = call.rows();
    if ids.is_empty() {
        return Ok(Answer::Null);
    }
    let now = Timestamp::now();
    let (mut held, mut lost): (HashMap<Uuid, bool>, HashSet<Uuid>) = Default::default();
    let sign = Sign { now, lease_ms, progress: None, note: Param::NULL };
    for (id, lease) in ids.iter().zip(&leases) {
        match keep_in_memory(*id, *lease, &sign) {
            Ok(Some(cancel_requested)) => _ = held.insert(*id, cancel_requested),
            Ok(None) => {}
            Err(Error::LeaseLost { .. }) => _ = lost.insert(*id),
            Err(other) => return Err(other),
        }
    }
    let (rest, their_leases): (Vec<Uuid>, Vec<i64>) =
        ids.iter().copied().zip(leases.iter().copied()).filter(|(id, _)| !held.contains_key(id) && !lost.contains(id)).unzip();
    if !rest.is_empty() {
        held.extend(heartbeats_in_rows(&rest, &their_leases, now, lease_ms)?);
    }
    for id in ids {
        let cancel_requested = held.get(&id);
        sink.put(&[id.into(), cancel_requested.is_some().into(), cancel_requested.copied().unwrap_or(false).into()]);
    }
    Ok(Answer::Null)
}

/// Heartbeats that write: which leases are held, with whether cancellation was asked for.
fn heartbeats_in_rows(ids: &[Uuid], leases: &[i64], now: Timestamp, lease_ms: Option<i64>) -> Result<HashMap<Uuid, bool>, Error> {
    let held: HashMap<Uuid, bool> = as_owner(|session| {
        let held: HashMap<Uuid, bool> = store::finish::heartbeat_many(session, ids, leases, now, lease_ms)?.into_iter().collect();
        if held.len() < ids.len() {
            store::operate::note_left_alone(session, ids)?;
        }
        Ok(held)
    })?;
    if pg::leases::attached() {
        let sign = pg::leases::sign(now, lease_ms, None);
        for (id, lease) in ids.iter().zip(leases).filter(|(id, _)| held.contains_key(*id)) {
            pg::leases::kept_by_row(&pg::leases::key(*id), *lease, &sign);
        }
    }
    Ok(held)
}
