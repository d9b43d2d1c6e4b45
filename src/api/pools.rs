//! create_handler, drop_handler, snooze, discard; create_pool, alter_pool, drop_pool, start_pool, stop_pool, restart_pool, resize_pool.

use super::claim::queue_names;
use super::{label, options, required, within};
use crate::background::executor::TIMER_MAX_MS;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::datum::Text;
use crate::pg::spi::{Param, Session};
use crate::pg::switch::as_owner;
use crate::rules::limits::{AHEAD_MAX_MS, ERROR_BYTES};
use crate::rules::names;
use crate::rules::pool::{Reason, Restart};
use crate::store::pools::{self, Options, RoleFacts};
use crate::{settings, store};
use pgrx::pg_sys;
use uuid::Uuid;

const SIZE_MAX: i32 = 256;
const START_SECONDS_MAX: i32 = 3_600;
const START_RETRIES_MAX: i32 = 1_000;
/// A worker that leaves sooner does nothing but start.
const RUNTIME_MIN_MS: i64 = 1_000;
const STOP_WAIT_MAX_MS: i64 = 24 * 60 * 60 * 1_000;
/// A worker with nothing to do has several megabytes.
const MEMORY_MIN: i64 = 16 * 1024 * 1024;
const MEMORY_MAX: i64 = 1 << 46;

/// 42501 unless jobs may run as the role on behalf of the caller.
fn check_role(role: &RoleFacts) -> Result<(), Error> {
    let refuse = |what: &str, hint| Err(Error::NotAllowed { what: what.into(), hint });
    match role {
        RoleFacts { exists: false, .. } => Err(Error::UnknownRole),
        RoleFacts { has_caller_as_member: false, .. } => {
            refuse("only a member of a role can have jobs run as that role", "GRANT the role to the one who calls this.")
        }
        RoleFacts { is_superuser: true, .. } if !settings::allow_superuser_handlers() => refuse(
            "jobs do not run as a superuser",
            "Pass another role in run_as, or set jobq.allow_superuser_handlers and restart the server.",
        ),
        RoleFacts { may_log_in: false, .. } => {
            refuse("jobs run as a role that may log in", "ALTER ROLE ... LOGIN. A password is not needed.")
        }
        RoleFacts { may_connect: false, .. } => {
            refuse("the role may not connect to this database", "GRANT CONNECT ON DATABASE ... TO the role.")
        }
        _ => Ok(()),
    }
}

fn kind_of(call: &Call) -> Result<String, Error> {
    Ok(label(&required(call.text(0), "kind")?, "kind")?.to_string())
}

/// `jobq.create_handler(kind, function, run_as, options)`
pub fn create_handler(call: &Call) -> Outcome {
    const SIGNATURE: &str = "be a function (jobq.claimed_job) that returns jsonb or void, or a procedure (jobq.claimed_job) or (jobq.claimed_job, INOUT jsonb)";
    let kind = kind_of(call)?;
    let function = required(call.oid(1), "function")?;
    let caller = pg::server::current_user();
    let run_as = call.oid(2).unwrap_or(caller);
    options(call.jsonb(3), &[])?;
    as_owner(|session| {
        let facts = pools::handler_facts(session, function, run_as, caller)?;
        check_role(&facts.role)?;
        if !facts.function_exists || !facts.takes_a_job || !facts.answers_jsonb_or_nothing {
            return Err(Error::invalid("function", SIGNATURE));
        }
        if !facts.may_execute {
            let hint = "GRANT EXECUTE ON FUNCTION ... and USAGE ON SCHEMA ... TO the role.";
            return Err(Error::NotAllowed { what: "the role may not execute the function".into(), hint });
        }
        if !pools::create_handler(session, &kind, function, run_as, caller, Timestamp::now())? {
            let hint = "Drop the other one first, in the same transaction if no job is to wait.";
            return Err(Error::Exists { what: "handler", name: kind.clone(), hint });
        }
        Ok(())
    })?;
    pg::xact::handlers_change();
    Ok(Answer::Bool(true))
}

/// `jobq.drop_handler(kind)`
pub fn drop_handler(call: &Call) -> Outcome {
    let kind = kind_of(call)?;
    let dropped = as_owner(|session| pools::drop_handler(session, &kind))?;
    pg::xact::handlers_change();
    Ok(Answer::Bool(dropped))
}

/// `jobq.snooze(delay)`
pub fn snooze(call: &Call) -> Outcome {
    let milliseconds = required(call.interval(0), "delay")?.millis("delay", 0, AHEAD_MAX_MS)?;
    Err(Error::Snoozed { milliseconds })
}

/// `jobq.discard(reason)`
pub fn discard(call: &Call) -> Outcome {
    let reason = required(call.text(0), "reason")?;
    Err(Error::Discarded { reason: String::from_utf8_lossy(reason.clip(ERROR_BYTES)).into_owned() })
}

fn name_of(call: &Call) -> Result<String, Error> {
    let text = required(call.text(0), "name")?;
    let name = text.utf8("name")?;
    names::queue("name", name)?;
    Ok(name.to_string())
}

/// The option arguments that create_pool and alter_pool share: queue, size, and those from `rest` on.
fn given<'t>(call: &Call, queue: Option<Text>, restart: Option<&'t Text>, rest: usize) -> Result<Options<'t>, Error> {
    queue_names(queue.as_ref())?;
    let at = |n: usize| rest.saturating_add(n);
    options(call.jsonb(at(8)), &[])?;
    let restart = restart.map(|text| text.utf8("restart")).transpose()?;
    if let Some(word) = restart.filter(|word| Restart::from_word(word).is_none()) {
        return Err(Error::invalid_value("restart", format!("be {}", Restart::WORDS), word.escape_debug()));
    }
    let span = |n: usize, argument, max| call.interval(at(n)).map(|span| span.millis(argument, 0, max)).transpose();
    let bytes = |bytes: i64| if bytes == 0 { Ok(0) } else { within(bytes, "max_memory_bytes", MEMORY_MIN, MEMORY_MAX) };
    let max_runtime = span(5, "max_runtime", AHEAD_MAX_MS)?;
    if max_runtime.is_some_and(|ms| ms > 0 && ms < RUNTIME_MIN_MS) {
        return Err(Error::invalid("max_runtime", "be at least 1 s, or 0 for none"));
    }
    Ok(Options {
        queue,
        size: call.int(2).map(size).transpose()?,
        autostart: call.boolean(at(0)),
        restart,
        start_ms: call
            .int(at(2))
            .map(|n| within(n, "start_seconds", 0, START_SECONDS_MAX))
            .transpose()?
            .map(|n| i64::from(n).saturating_mul(1_000)),
        start_retries: call.int(at(3)).map(|n| within(n, "start_retries", 0, START_RETRIES_MAX)).transpose()?,
        stop_wait_ms: span(4, "stop_wait", STOP_WAIT_MAX_MS)?,
        max_runtime_ms: max_runtime,
        max_memory_bytes: call.bigint(at(6)).map(bytes).transpose()?,
        job_timeout_ms: span(7, "job_timeout", TIMER_MAX_MS)?,
    })
}

/// 42704 for a queue that is not there.
fn check_queues(session: &Session, queues: Option<Text>) -> Result<(), Error> {
    queue_names(queues.as_ref())?.iter().try_for_each(|name| store::queues::by_name(session, name).map(|_| ()))
}

fn size(n: i32) -> Result<i32, Error> {
    within(n, "size", 0, SIZE_MAX)
}

/// `jobq.create_pool(name, queue, size, run_as, autostart, restart, start_seconds, start_retries, stop_wait, max_runtime,
/// max_memory_bytes, job_timeout, options)`
pub fn create_pool(call: &Call) -> Outcome {
    let name = name_of(call)?;
    let restart = call.text(5);
    let options = given(call, call.text(1), restart.as_ref(), 4)?;
    let caller = pg::server::current_user();
    let run_as = call.oid(3).unwrap_or(caller);
    if !pg::shmem::preloaded() {
        return Err(Error::NeedsPreload { feature: "a pool" });
    }
    as_owner(|session| {
        check_role(&pools::handler_facts(session, pg_sys::InvalidOid, run_as, caller)?.role)?;
        check_queues(session, options.queue)?;
        if pools::create_pool(session, &name, run_as, caller, &options, Timestamp::now())? {
            return Ok(());
        }
        Err(Error::Exists { what: "pool", name: name.clone(), hint: "Change its options with jobq.alter_pool." })
    })?;
    pg::xact::pools_change();
    Ok(Answer::Bool(true))
}

/// Does something to a pool whose row is locked: its id, and whether it is stopped.
fn change(name: &str, body: impl FnOnce(&Session, i32, bool) -> Result<bool, Error>) -> Outcome {
    let changed = as_owner(|session| {
        let Some((id, stopped)) = pools::lock_pool(session, name, pg::server::started_at())? else {
            return Err(Error::Unknown { what: "pool", name: name.into() });
        };
        body(session, id, stopped)
    })?;
    pg::xact::pools_change();
    pg::xact::handlers_change();
    Ok(Answer::Bool(changed))
}

/// `jobq.alter_pool(name, queue, size, autostart, restart, start_seconds, start_retries, stop_wait, max_runtime, max_memory_bytes,
/// job_timeout, options)`
pub fn alter_pool(call: &Call) -> Outcome {
    let name = name_of(call)?;
    let restart = call.text(4);
    let options = given(call, call.text(1), restart.as_ref(), 3)?;
    change(&name, |session, id, _| {
        check_queues(session, options.queue)?;
        pools::alter_pool(session, id, &options)
    })
}

/// `jobq.resize_pool(name, size)`
pub fn resize_pool(call: &Call) -> Outcome {
    let name = name_of(call)?;
    let options = Options { size: Some(size(required(call.int(1), "size")?)?), ..Options::default() };
    change(&name, |session, id, _| pools::alter_pool(session, id, &options))
}

/// `jobq.drop_pool(name)`
pub fn drop_pool(call: &Call) -> Outcome {
    change(&name_of(call)?, |session, id, _| pools::drop_pool(session, id).map(|()| true))
}

/// `jobq.start_pool(name)`
pub fn start_pool(call: &Call) -> Outcome {
    change(&name_of(call)?, |session, id, stopped| pools::start_pool(session, id, pg::server::started_at()).map(|()| stopped))
}

/// `jobq.stop_pool(name)`
pub fn stop_pool(call: &Call) -> Outcome {
    change(&name_of(call)?, |session, id, stopped| pools::stop_pool(session, id).map(|()| !stopped))
}

/// `jobq.restart_pool(name)`
pub fn restart_pool(call: &Call) -> Outcome {
    change(&name_of(call)?, |session, id, _| pools::restart_pool(session, id).map(|()| true))
}

/// `jobq._pool_workers()`: the views pool_workers and pools.
pub fn pool_workers(call: &Call) -> Outcome {
    let sink = call.rows();
    let database = pg::server::database_oid().to_u32();
    let seats = pg::pools::with(|seats| seats.iter().filter(|seat| seat.database == database).copied().collect::<Vec<_>>());
    let (now, monotonic) = (pg::server::wall_clock_micros(), pg::server::monotonic_micros());
    for seat in seats.unwrap_or_default() {
        let time = |micros: i64| if micros == 0 { Param::NULL } else { Timestamp(micros).into() };
        let is_there = seat.pid != 0;
        let since = now.saturating_sub(monotonic.saturating_sub(seat.worker.since));
        let reason = if seat.in_trouble { Reason::InTrouble } else { seat.worker.reason }.words();
        sink.put(&[
            seat.pool.into(),
            seat.number.into(),
            is_there.then_some(seat.pid).into(),
            seat.worker.state.word().into(),
            Timestamp(since).into(),
            if is_there { time(seat.started_at) } else { Param::NULL },
            (seat.job != 0).then(|| Uuid::from_u128(seat.job)).into(),
            time(seat.job_started_at),
            seat.completed.into(),
            seat.failed.into(),
            (seat.memory_bytes > 0).then_some(seat.memory_bytes).into(),
            (!reason.is_empty()).then_some(reason).into(),
        ]);
    }
    Ok(Answer::Null)
}
