//! The calls that run thousands of times a second, row by row instead of by statement (pg::heap). Each does what the statement named
//! with it does, or answers None before it has written anything: then the caller runs the statement.

use super::enqueue::{Claim, NewJob};
use super::finish::Sign;
use super::queues::Queue;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg;
use crate::pg::call::RowSink;
use crate::pg::datum::{Jsonb, Text};
use crate::pg::heap::{Access, Key, Row, Table};
use crate::pg::spi::Param;
use crate::rules::lease;
use std::ffi::CString;
use uuid::Uuid;

/// Numbers the columns of a table, from 1, in the order of sql/schema.
macro_rules! columns {
    ($table:ident: $($column:ident)*) => {
        #[allow(non_upper_case_globals, dead_code)]
        pub mod $table {
            #[allow(non_camel_case_types)]
            enum Place { none, $($column),* }
            $(pub const $column: usize = Place::$column as usize;)*
            pub const COLUMNS: &[&str] = &[$(stringify!($column)),*];
            const _: Place = Place::none;
        }
    };
}

columns!(queue: id name default_priority max_attempts lease_ms timeout_ms backoff max_crashes retention_ms keep_completed max_depth
    paused created_at dropped_at drop_seen_at);
columns!(job: id enqueued_at run_at timeout_ms queue_id priority max_attempts scheduled unique_pending state bound cancel_requested
    attempt crashes progress lease lease_ms claimed_at seen_at lease_expires_at deadline_at note worker unique_key spent_key headers
    errors kind payload);
columns!(history: id slot state queue_id priority attempt max_attempts crashes timeout_ms enqueued_at run_at claimed_at finished_at
    lease progress unique_pending note worker kind unique_key headers errors result payload);

const NEVER: Timestamp = Timestamp(i64::MIN);

fn jobs(access: &Access) -> Option<Table<'_>> {
    access.table(c"_job", job::COLUMNS.len())
}

fn queues(access: &Access) -> Option<Table<'_>> {
    access.table(c"_queue", queue::COLUMNS.len())
}

/// queue_by_name.sql. 42704 when there is none.
pub fn queue_by_name(access: &Access, name: &str) -> Result<Option<Queue>, Error> {
    let Some(table) = queues(access) else { return Ok(None) };
    let Some(mut scan) = table.scan(c"_queue_name", &[Key::text_is(1, name)]) else { return Ok(None) };
    let found = scan.next_row().and_then(|row| {
        Some(Queue {
            id: row.int(queue::id)?,
            name: name.into(),
            default_priority: row.int(queue::default_priority)?,
            max_attempts: row.int(queue::max_attempts)?,
            lease_ms: row.bigint(queue::lease_ms)?,
            timeout_ms: row.bigint(queue::timeout_ms)?,
            max_depth: row.bigint(queue::max_depth)?,
            paused: row.boolean(queue::paused)?,
        })
    });
    Queue::or_default(found, name).map(Some)
}

/// enqueue.sql
pub fn enqueue(access: &Access, id: Uuid, new: &NewJob<'_>, payload: Param) -> Result<Option<()>, Error> {
    let Some(table) = jobs(access) else { return Ok(None) };
    let mut row = [Param::NULL; job::COLUMNS.len()];
    let mut set = |column: usize, value: Param| {
        if let Some(place) = row.get_mut(column.saturating_sub(1)) {
            *place = value;
        }
    };
    set(job::id, id.into());
    set(job::enqueued_at, new.enqueued_at.into());
    set(job::run_at, new.run_at.into());
    set(job::timeout_ms, new.timeout_ms.into());
    set(job::queue_id, new.queue.into());
    set(job::priority, new.priority.into());
    set(job::max_attempts, new.max_attempts.into());
    set(job::scheduled, new.scheduled.into());
    set(job::unique_pending, false.into());
    set(job::state, Param::letter(b'p'));
    set(job::bound, false.into());
    set(job::cancel_requested, false.into());
    set(job::attempt, 0i32.into());
    set(job::crashes, 0i32.into());
    set(job::progress, (-1f64).into());
    set(job::lease, 0i64.into());
    set(job::lease_ms, 0i64.into());
    for never in [job::claimed_at, job::seen_at, job::lease_expires_at, job::deadline_at] {
        set(never, NEVER.into());
    }
    set(job::note, "".into());
    set(job::worker, "".into());
    set(job::headers, new.headers.into());
    set(job::kind, new.kind.into());
    set(job::payload, payload);
    table.insert(&row)?;
    Ok(Some(()))
}

/// What a claim handed out.
pub struct Claimed {
    pub count: i32,
    /// Every lease is from the clock, none from its job's previous lease.
    pub from_clock: bool,
}

/// claim.sql, with the rows put into `sink`. The priorities are walked one by one, so that jobs of one that are scheduled for later
/// do not stand before those of the next.
pub fn claim(access: &Access, queue: &Queue, claim: &Claim<'_>, sink: &RowSink) -> Result<Option<Claimed>, Error> {
    let Some(table) = jobs(access) else { return Ok(None) };
    let mut claimed = Claimed { count: 0, from_clock: true };
    let worker = Param::from(claim.worker);
    let queue_name = Param::from(queue.name.as_str());
    let mut keys = vec![Key::int_is(1, queue.id)];
    while claimed.count < claim.batch {
        let Some(first) = table.first_entry(READY, &keys, 2) else { return before_anything(claimed) };
        let Some(priority) = first else { break };
        let ready = [Key::int_is(1, queue.id), Key::int_is(2, priority), Key::time_is_at_most(3, claim.now)];
        let Some(mut scan) = table.scan(READY, &ready) else { return before_anything(claimed) };
        while claimed.count < claim.batch
            && let Some(row) = scan.next_row()
        {
            pg::server::check_for_interrupts();
            if row.letter(job::state) != Some(b'p') || !is_wanted(&row, claim.kinds) {
                continue;
            }
            let lease =
                lease::next(row.bigint(job::lease).unwrap_or(0), claim.clock_part, lease::random_part(pg::server::random_bits()));
            if take(&table, &row, queue, claim, lease, worker, queue_name, sink)? {
                claimed.count = claimed.count.saturating_add(1);
                claimed.from_clock &= lease::from_clock(lease, claim.clock_part);
            }
        }
        keys = vec![Key::int_is(1, queue.id), Key::int_is_above(2, priority)];
    }
    Ok(Some(claimed))
}

const READY: &std::ffi::CStr = c"_job_ready";

fn before_anything(claimed: Claimed) -> Result<Option<Claimed>, Error> {
    Ok((claimed.count > 0).then_some(claimed))
}

fn is_wanted(row: &Row<'_>, kinds: Option<&[Text]>) -> bool {
    kinds.is_none_or(|kinds| row.text(job::kind).is_some_and(|kind| kinds.iter().any(|wanted| wanted.bytes() == kind.bytes())))
}

/// Makes a ready row a running one and hands it out; false when somebody else has it.
#[allow(clippy::too_many_arguments)]
fn take(
    table: &Table<'_>,
    row: &Row<'_>,
    queue: &Queue,
    claim: &Claim<'_>,
    lease: i64,
    worker: Param,
    queue_name: Param,
    sink: &RowSink,
) -> Result<bool, Error> {
    let attempt = row.int(job::attempt).unwrap_or(0).saturating_add(1);
    let lease_ms = claim.lease_ms.unwrap_or(queue.lease_ms);
    let expires_at = claim.now.plus_ms(lease_ms);
    let timeout_ms = row.bigint(job::timeout_ms).filter(|ms| *ms > 0).unwrap_or(queue.timeout_ms);
    let deadline_at = (timeout_ms > 0).then(|| claim.now.plus_ms(timeout_ms));
    let mut changes = vec![
        (job::state, Param::letter(b'r')),
        (job::attempt, attempt.into()),
        (job::lease, lease.into()),
        (job::lease_ms, lease_ms.into()),
        (job::claimed_at, claim.now.into()),
        (job::seen_at, claim.now.into()),
        (job::lease_expires_at, expires_at.into()),
        (job::deadline_at, deadline_at.unwrap_or(NEVER).into()),
        (job::worker, worker),
    ];
    // The key is given up at the first claim.
    if row.boolean(job::unique_pending) == Some(true) && !row.value(job::unique_key).is_null() {
        changes.push((job::spent_key, row.value(job::unique_key)));
        changes.push((job::unique_key, Param::NULL));
    }
    if !table.update_if_free(row, &changes)? {
        return Ok(false);
    }
    sink.put(&[
        row.value(job::id),
        lease.into(),
        queue_name,
        row.value(job::kind),
        row.value(job::payload),
        row.value(job::headers),
        attempt.into(),
        row.value(job::max_attempts),
        row.value(job::priority),
        row.value(job::enqueued_at),
        row.value(job::run_at),
        expires_at.into(),
        deadline_at.into(),
        row.value(job::crashes),
        row.last_element_field(job::errors, "error"),
    ]);
    Ok(true)
}

/// heartbeat.sql: whether cancellation was asked for. Inner None when the lease is stale, or somebody is just changing the row.
pub fn heartbeat(access: &Access, id: Uuid, lease: i64, sign: &Sign) -> Result<Option<Option<bool>>, Error> {
    let Some(table) = jobs(access) else { return Ok(None) };
    let Some(mut scan) = table.scan(c"_job_pkey", &[Key::uuid_is(1, id)]) else { return Ok(None) };
    let Some(row) = scan.next_row().filter(|row| is_held(row, lease)) else { return Ok(Some(None)) };
    let lease_ms = row.bigint(job::lease_ms).unwrap_or(0);
    let expires_at = sign.now.plus_ms(sign.lease_ms.unwrap_or(lease_ms));
    let mut changes = vec![
        (job::seen_at, row.timestamp(job::seen_at).unwrap_or(NEVER).max(sign.now).into()),
        (job::lease_ms, sign.lease_ms.unwrap_or(lease_ms).max(lease_ms).into()),
        (job::lease_expires_at, row.timestamp(job::lease_expires_at).unwrap_or(NEVER).max(expires_at).into()),
    ];
    if let Some(progress) = sign.progress {
        changes.push((job::progress, progress.into()));
    }
    if !sign.note.is_null() {
        changes.push((job::note, sign.note));
    }
    let done = table.update_if_free(&row, &changes)?;
    Ok(Some(done.then(|| row.boolean(job::cancel_requested) == Some(true))))
}

fn is_held(row: &Row<'_>, lease: i64) -> bool {
    row.letter(job::state) == Some(b'r') && row.bigint(job::lease) == Some(lease)
}

/// complete_keep.sql and complete_drop.sql. False when the lease is stale, or somebody is just changing the row.
pub fn complete(
    access: &Access,
    id: Uuid,
    lease: i64,
    now: Timestamp,
    result: Option<Jsonb>,
    slot: i16,
) -> Result<Option<bool>, Error> {
    let (Some(table), Some(queues)) = (jobs(access), queues(access)) else { return Ok(None) };
    let Some(mut scan) = table.scan(c"_job_pkey", &[Key::uuid_is(1, id)]) else { return Ok(None) };
    let Some(row) = scan.next_row() else { return Ok(Some(false)) };
    if !is_held(&row, lease) {
        return Ok(Some(false));
    }
    let queue_id = row.int(job::queue_id).unwrap_or(0);
    let Some(mut options) = queues.scan(c"_queue_pkey", &[Key::int_is(1, queue_id)]) else { return Ok(None) };
    let keep = options.next_row().and_then(|queue| queue.boolean(queue::keep_completed)).unwrap_or(true);
    if !keep {
        return Ok(Some(table.delete(&row)));
    }
    let partition = CString::new(format!("_history_{slot:02}")).map_err(|_| Error::internal("a name has a zero byte"))?;
    let Some(history) = access.table(&partition, history::COLUMNS.len()) else { return Ok(None) };
    if !table.delete(&row) {
        return Ok(Some(false));
    }
    let unique_key = row.value(if row.value(job::unique_key).is_null() { job::spent_key } else { job::unique_key });
    history.insert(&[
        row.value(job::id),
        slot.into(),
        Param::letter(b'c'),
        row.value(job::queue_id),
        row.value(job::priority),
        row.value(job::attempt),
        row.value(job::max_attempts),
        row.value(job::crashes),
        row.value(job::timeout_ms),
        row.value(job::enqueued_at),
        row.value(job::run_at),
        row.value(job::claimed_at),
        now.into(),
        lease.into(),
        row.value(job::progress),
        row.value(job::unique_pending),
        row.value(job::note),
        row.value(job::worker),
        row.value(job::kind),
        unique_key,
        row.value(job::headers),
        row.value(job::errors),
        result.into(),
        row.value(job::payload),
    ])?;
    Ok(Some(true))
}
