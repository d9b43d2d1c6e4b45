//! The SQL surface, one file a verb group. Signatures and comments are in sql/schema/40_functions.sql; arguments are read here by
//! position. Each function checks its arguments, then goes through the privilege switch once.

pub mod access;
pub mod claim;
pub mod enqueue;
pub mod finish;
pub mod inspect;
pub mod leases;
pub mod operate;
pub mod pg_cron;
pub mod pools;
pub mod queues;
pub mod schedules;
pub mod wait;

use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::datum::{JsonKind, Jsonb, Text};
use crate::pg::spi::Session;
use crate::rules::limits::{AHEAD_MAX_MS, BATCH_MAX, PRIORITY_MAX};
use crate::rules::{ring, span::Span};
use crate::{settings, sql_functions, store};
use std::cell::Cell;

sql_functions! {
    jobq_enqueue => enqueue::enqueue,
    jobq_enqueue_many => enqueue::enqueue_many,
    jobq_enqueue_jobs => enqueue::enqueue_jobs,
    jobq_claim => claim::claim,
    jobq_claim_wait => wait::claim_wait,
    jobq_complete_and_claim => finish::complete_and_claim,
    jobq_complete => finish::complete,
    jobq_complete_many => finish::complete_many,
    jobq_fail => finish::fail,
    jobq_release => finish::release,
    jobq_heartbeat => finish::heartbeat,
    jobq_heartbeat_many => finish::heartbeat_many,
    jobq_create_queue => queues::create_queue,
    jobq_alter_queue => queues::alter_queue,
    jobq_drop_queue => queues::drop_queue,
    jobq_pause => queues::pause,
    jobq_resume => queues::resume,
    jobq_cancel => operate::cancel,
    jobq_reschedule => operate::reschedule,
    jobq_retry => operate::retry,
    jobq_retry_failed => operate::retry_failed,
    jobq_delete => operate::delete,
    jobq_purge => operate::purge,
    jobq_rescue_zombies => operate::rescue_zombies,
    jobq_resume_after_restore => operate::resume_after_restore,
    jobq_tick => operate::tick,
    jobq_grant_access => access::grant_access,
    jobq_revoke_access => access::revoke_access,
    jobq_create_handler => pools::create_handler,
    jobq_drop_handler => pools::drop_handler,
    jobq_snooze => pools::snooze,
    jobq_discard => pools::discard,
    jobq_create_pool => pools::create_pool,
    jobq_alter_pool => pools::alter_pool,
    jobq_drop_pool => pools::drop_pool,
    jobq_start_pool => pools::start_pool,
    jobq_stop_pool => pools::stop_pool,
    jobq_restart_pool => pools::restart_pool,
    jobq_resize_pool => pools::resize_pool,
    jobq_import_pg_cron => pg_cron::import_pg_cron,
    jobq_pool_workers => pools::pool_workers,
    jobq_schedule => schedules::schedule,
    jobq_alter_schedule => schedules::alter_schedule,
    jobq_unschedule => schedules::unschedule,
    jobq_pause_schedule => schedules::pause_schedule,
    jobq_resume_schedule => schedules::resume_schedule,
    jobq_run_now => schedules::run_now,
    jobq_preview => schedules::preview,
    jobq_job => inspect::job,
    jobq_why => inspect::why,
    jobq_stats => inspect::stats,
    jobq_workers => inspect::workers,
    jobq_diagnose => inspect::diagnose,
    jobq_seen_at => leases::seen_at,
    jobq_lease_expires_at => leases::lease_expires_at,
    jobq_progress => leases::progress,
    jobq_is_kept => leases::is_kept,
    jobq_is_lost => leases::is_lost,
    jobq_version => inspect::version,
    jobq_installed => inspect::installed,
}

/// 22004 for a required argument that is NULL.
fn required<T>(value: Option<T>, argument: &'static str) -> Result<T, Error> {
    value.ok_or(Error::Null { argument })
}

/// 22023 unless the value lies in the range.
fn within<T: PartialOrd + ToString>(value: T, argument: &'static str, min: T, max: T) -> Result<T, Error> {
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(Error::invalid_value(argument, format!("be between {} and {}", min.to_string(), max.to_string()), value.to_string()))
}

fn batch(value: Option<i32>, default: i32) -> Result<i32, Error> {
    value.map_or(Ok(default), |batch| within(batch, "batch", 1, BATCH_MAX))
}

fn priority(value: Option<i32>, argument: &'static str) -> Result<Option<i32>, Error> {
    value.map(|priority| within(priority, argument, 0, PRIORITY_MAX)).transpose()
}

/// A name in an argument that may be left out.
fn queue_name<'t>(value: &'t Option<Text>, argument: &'static str) -> Result<Option<&'t str>, Error> {
    value
        .as_ref()
        .map(|text| {
            let name = text.utf8(argument)?;
            crate::rules::names::queue(argument, name)?;
            Ok(name)
        })
        .transpose()
}

fn label<'t>(text: &'t Text, argument: &'static str) -> Result<&'t str, Error> {
    let name = text.utf8(argument)?;
    crate::rules::names::label(argument, name)?;
    Ok(name)
}

/// 22001 for a document over its limit.
fn fits(document: Jsonb, argument: &'static str, limit: usize) -> Result<Jsonb, Error> {
    if document.bytes() <= limit {
        return Ok(document);
    }
    Err(Error::TooLong { argument, limit: format!("{limit} bytes"), size: format!("{} bytes", document.bytes()) })
}

/// A payload: object or array, not too large.
fn payload(document: Jsonb, argument: &'static str) -> Result<Jsonb, Error> {
    if document.kind() == JsonKind::Scalar {
        return Err(scalar_payload(argument));
    }
    fits(document, argument, settings::max_payload_bytes())
}

fn scalar_payload(argument: &'static str) -> Error {
    Error::invalid(argument, "be a JSON object or array").with_hint("A JSON string is usually a document encoded twice.")
}

pub(crate) fn result(document: Option<Jsonb>) -> Result<Option<Jsonb>, Error> {
    document.map(|document| fits(document, "result", settings::max_payload_bytes())).transpose()
}

/// When a job runs: `run_at`, or now plus `delay`, or now.
fn run_at(now: Timestamp, run_at: Option<Timestamp>, delay: Option<Span>) -> Result<Timestamp, Error> {
    match (run_at, delay) {
        (Some(_), Some(_)) => Err(Error::invalid("run_at", "not be given together with delay")),
        (None, None) => Ok(now),
        (None, Some(delay)) => Ok(now.plus_ms(delay.millis("delay", 0, AHEAD_MAX_MS)?)),
        (Some(at), None) if !at.is_finite() => Err(Error::invalid("run_at", "be finite")),
        (Some(at), None) if at > now.plus_ms(AHEAD_MAX_MS) => {
            Err(Error::invalid("run_at", "be at most 10 years ahead").with_hint("A bare number is seconds."))
        }
        (Some(at), None) => Ok(at),
    }
}

/// The fields of an options object; `known` names those allowed here.
fn options(document: Option<Jsonb>, known: &[&str]) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let Some(document) = document else { return Ok(serde_json::Map::new()) };
    let refuse = || Error::invalid("options", "be a JSON object");
    if document.kind() != JsonKind::Object {
        return Err(refuse());
    }
    let fields: serde_json::Map<_, _> = serde_json::from_str(&document.to_text()).map_err(|_| refuse())?;
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        Some(field) => Err(unknown_field("options", field, known)),
        None => Ok(fields),
    }
}

fn unknown_field(argument: &'static str, field: &str, known: &[&str]) -> Error {
    const SHOWN_CHARS: usize = 40;
    let field: String = field.chars().take(SHOWN_CHARS).collect();
    let known = if known.is_empty() { "there are none yet".to_string() } else { format!("known are {}", known.join(", ")) };
    Error::invalid(argument, format!("not have the field \"{}\": {known}", field.escape_debug()))
}

/// The history slot for jobs that finish now. The longest retention is read at most once a minute: a slot chosen by an older one
/// is as good.
fn history_slot(session: &Session, now: Timestamp) -> Result<i16, Error> {
    if let Some(slot) = known_history_slot(now) {
        return Ok(slot);
    }
    let width = ring::width_days(store::queues::longest_retention_ms(session)?);
    HISTORY_WIDTH.set(Some((now, width)));
    Ok(ring::slot(now.0, width))
}

thread_local! { static HISTORY_WIDTH: Cell<Option<(Timestamp, i64)>> = const { Cell::new(None) } }

/// The history slot, if the longest retention was read within the last minute.
fn known_history_slot(now: Timestamp) -> Option<i16> {
    const FRESH_MS: i64 = 60_000;
    let (read_at, width) = HISTORY_WIDTH.get()?;
    (0..FRESH_MS).contains(&now.ms_since(read_at)).then(|| ring::slot(now.0, width))
}
