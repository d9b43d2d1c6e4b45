//! The calls that run thousands of times a second, row by row instead of by statement (pg::heap). Each does what the statement named
//! with it does, or answers None before it has written anything: then the caller runs the statement.

use super::candidates::{self, ReadyRows, candidate_of};
use super::counts::Kept;
use super::enqueue::{Claim, NewJob};
use super::finish::Sign;
use super::queues::Queue;
use crate::clock::Timestamp;
use crate::dispatch::stripe::{Found, QueueKey, Side};
use crate::dispatch::tally::What;
use crate::dispatch::{self, Candidate, kind_hash};
use crate::error::Error;
use crate::pg;
use crate::pg::call::RowSink;
use crate::pg::datum::{Jsonb, Text};
use crate::pg::heap::{self, Key, Table, Use, direct, look_again};
use crate::pg::row::{Row, RowMemory};
use crate::pg::shape::{IndexSpec, Predicate, TableSpec};
use crate::pg::spi::Param;
use crate::pg::stripes::{self, Taken};
use crate::pg::{blocks, counts, leases, notes};
use crate::rules::lease;
use crate::settings;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use uuid::Uuid;

/// Declares a table as sql/schema does: its columns in order, with their types, and its CHECK constraints. Gives the number of
/// each column, from 1.
macro_rules! table {
    ($table:ident, checks: $checks:expr, parent: $parent:expr, $($column:ident $kind:ident $($null:ident)?,)*) => {
        #[allow(non_upper_case_globals, dead_code)]
        pub mod $table {
            use $crate::pg::shape::{Column, TableSpec};
            use $crate::pg::spi::Type;
            #[allow(non_camel_case_types)]
            enum Place { none, $($column),* }
            $(pub const $column: usize = Place::$column as usize;)*
            const _: Place = Place::none;
            pub const COLUMNS: usize = [$(stringify!($column)),*].len();
            pub static SPEC: TableSpec = TableSpec {
                columns: &[$(Column { name: stringify!($column), kind: Type::$kind, nullable: table!(@ $($null)?) }),*],
                checks: $checks,
                parent: $parent,
            };
        }
    };
    (@ null) => { true };
    (@) => { false };
}

table!(queue, checks: &[c"_queue_default"], parent: None,
    id Int, name Text, default_priority Int, max_attempts Int, lease_ms BigInt, timeout_ms BigInt, backoff Jsonb null,
    max_crashes Int, retention_ms BigInt, keep_completed Bool, max_depth BigInt, paused Bool, created_at Timestamp,
    dropped_at Timestamp null, drop_seen_at Timestamp null,
);
table!(job, checks: &[c"_job_attempts", c"_job_state"], parent: None,
    id Uuid, enqueued_at Timestamp, run_at Timestamp, queue_id Int, priority SmallInt, max_attempts SmallInt, crashes SmallInt,
    attempt SmallInt, state Letter, scheduled Bool, unique_pending Bool, timeout_ms BigInt null, lease BigInt null,
    claimed_at Timestamp null, lease_expires_at Timestamp null, lease_ms Int null, seen_at Timestamp null, deadline_at Timestamp null,
    progress Double null, bound Bool null, cancel_requested Bool null, note Text null, worker Text null, unique_key Text null,
    spent_key Text null, headers Jsonb null, errors Jsonb null, payload Jsonb, kind Text,
);
table!(history, checks: &[c"_history_state"], parent: Some(c"_history"),
    id Uuid, enqueued_at Timestamp, run_at Timestamp, finished_at Timestamp, queue_id Int, slot SmallInt, priority SmallInt,
    max_attempts SmallInt, crashes SmallInt, attempt SmallInt, state Letter, unique_pending Bool, timeout_ms BigInt null,
    lease BigInt null, claimed_at Timestamp null, progress Double null, note Text null, worker Text null, unique_key Text null,
    headers Jsonb null, errors Jsonb null, result Jsonb null, kind Text, payload Jsonb,
);

const QUEUE_KEY: IndexSpec = IndexSpec { name: c"_queue_pkey", columns: &[queue::id], predicate: Predicate::None };
const QUEUE_NAME: IndexSpec =
    IndexSpec { name: c"_queue_name", columns: &[queue::name], predicate: Predicate::Null(queue::dropped_at) };
const JOB_KEY: IndexSpec = IndexSpec { name: c"_job_pkey", columns: &[job::id], predicate: Predicate::None };
pub(super) const READY: IndexSpec =
    IndexSpec { name: c"_job_ready", columns: &[job::queue_id, job::priority, job::run_at, job::id], predicate: Predicate::None };

pub(super) const SCHEDULED: IndexSpec = IndexSpec {
    name: c"_job_scheduled",
    columns: &[job::queue_id, job::run_at, job::id],
    predicate: Predicate::True(job::scheduled),
};

fn queues(how: Use) -> (&'static CStr, &'static TableSpec, Use) {
    (c"_queue", &queue::SPEC, how)
}

pub(super) fn jobs(how: Use) -> (&'static CStr, &'static TableSpec, Use) {
    (c"_job", &job::SPEC, how)
}

/// queue_by_name.sql. 42704 when there is none.
fn queue_by_name(queues: &Table, name: &str) -> Result<Option<Queue>, Error> {
    let Some(mut scan) = queues.scan(&QUEUE_NAME, &[Key::text_is(1, name)]) else { return Ok(None) };
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

/// enqueue.sql, or enqueue_many.sql: jobs that differ in id and payload only. Not for a queue with a max_depth.
pub fn enqueue<'r>(
    queue: &str,
    jobs_to_add: &[(Uuid, Jsonb)],
    row_for: impl FnOnce(&Queue) -> NewJob<'r>,
) -> Result<Option<()>, Error> {
    direct([queues(Use::Read), jobs(Use::Insert)], |[queues, jobs]| {
        let Some(queue) = queue_by_name(queues, queue)?.filter(|queue| queue.max_depth == 0) else { return Ok(None) };
        let new = row_for(&queue);
        let mut row = row_of(&new)?;
        let mut with = |id: Uuid, payload: Jsonb| {
            set(&mut row, job::id, id.into());
            set(&mut row, job::payload, payload.into());
            row
        };
        if let [(id, payload)] = jobs_to_add {
            jobs.insert(&with(*id, *payload))?;
        } else {
            let mut batch = jobs.batch();
            for (id, payload) in jobs_to_add {
                batch.add(&with(*id, *payload))?;
            }
            batch.flush();
        }
        let key = stripes::key(jobs.oid(), queue.id);
        counts::add(&key, What::Unfinished, i64::try_from(jobs_to_add.len()).unwrap_or(i64::MAX));
        for (id, _) in jobs_to_add {
            notes::made_ready(&key, new.candidate(*id));
        }
        Ok(Some(()))
    })
}

fn set(row: &mut [Param], column: usize, value: Param) {
    if let Some(place) = row.get_mut(column.saturating_sub(1)) {
        *place = value;
    }
}

fn small(number: i32) -> Result<i16, Error> {
    i16::try_from(number).map_err(|_| Error::internal("a number is too large for its column"))
}

/// All but id and payload.
fn row_of(new: &NewJob<'_>) -> Result<[Param; job::COLUMNS], Error> {
    let mut row = [Param::NULL; job::COLUMNS];
    let mut set = |column, value| set(&mut row, column, value);
    set(job::enqueued_at, new.enqueued_at.into());
    set(job::run_at, new.run_at.into());
    set(job::queue_id, new.queue.into());
    set(job::priority, small(new.priority)?.into());
    set(job::max_attempts, small(new.max_attempts)?.into());
    set(job::crashes, 0i16.into());
    set(job::attempt, 0i16.into());
    set(job::state, Param::letter(b'p'));
    set(job::scheduled, new.scheduled.into());
    set(job::unique_pending, false.into());
    set(job::timeout_ms, new.timeout_ms.into());
    set(job::headers, new.headers.into());
    set(job::kind, new.kind.into());
    Ok(row)
}

/// What a claim handed out.
pub struct Claimed {
    pub count: i32,
    /// Every lease is from the clock, none from its job's previous lease.
    pub from_clock: bool,
}

/// claim.sql for each queue named, with the rows put into `sink`.
pub fn claim(names: &[String], claim: &Claim<'_>, sink: &RowSink) -> Result<Option<Claimed>, Error> {
    direct([queues(Use::Read), jobs(Use::Update)], |[queues, jobs]| {
        let mut known = Vec::with_capacity(names.len());
        for name in names {
            let Some(queue) = queue_by_name(queues, name)? else { return Ok(None) };
            known.push(queue);
        }
        // Jobs that this transaction has made ready are in the table only.
        let dispatched = settings::dispatch() && stripes::attached() && !notes::has_made_ready();
        let mut claiming = Claiming { jobs, claim, sink, claimed: Claimed { count: 0, from_clock: true } };
        for queue in known.iter().filter(|queue| !queue.paused) {
            let done =
                if dispatched { claiming.dispatched(queue)? } else { claiming.indexed(queue, dispatch::Key::MIN, i64::MIN)? };
            if !done && claiming.claimed.count == 0 {
                return Ok(None);
            }
        }
        Ok(Some(claiming.claimed))
    })
}

/// A claim under way.
struct Claiming<'c> {
    jobs: &'c Table,
    claim: &'c Claim<'c>,
    sink: &'c RowSink,
    claimed: Claimed,
}

impl Claiming<'_> {
    fn is_done(&self) -> bool {
        self.claimed.count >= self.claim.batch
    }

    /// From the ready index, beginning with a key. False when it cannot be used now.
    /// `clock`: what counts as now for the dispatcher, which may be a moment ahead of the clock.
    fn indexed(&mut self, queue: &Queue, from: dispatch::Key, clock: i64) -> Result<bool, Error> {
        if self.is_done() {
            return Ok(true);
        }
        // Not the time before the locks were waited for.
        let now = Timestamp::now();
        let due_by = Timestamp(now.0.max(clock));
        let Some(mut ready) = ReadyRows::open(self.jobs, queue.id, from) else { return Ok(false) };
        let key = stripes::key(self.jobs.oid(), queue.id);
        let memory = RowMemory::within_current();
        let mut taken: Vec<Candidate> = Vec::new();
        while !self.is_done() && ready.advance() {
            pg::server::check_for_interrupts();
            let row = ready.row();
            if row.timestamp(job::run_at).is_none_or(|run_at| run_at > due_by) {
                let priority = row.int(job::priority).unwrap_or(i32::MAX);
                ready.skip_priority(priority);
                continue;
            }
            if row.letter(job::state) != Some(b'p') || !is_wanted(&row, self.claim.kinds) {
                continue;
            }
            let candidate = candidate_of(&row);
            let place = notes::takes(&key, candidate);
            if memory.hold(|| self.take(&row, queue, now))? {
                taken.push(candidate);
            } else {
                notes::not_taken(place);
            }
        }
        stripes::withdraw(&key, &taken);
        Ok(true)
    }

    /// From what shared memory proposes. False when an index cannot be used now.
    fn dispatched(&mut self, queue: &Queue) -> Result<bool, Error> {
        /// One for each side of a queue of which nothing is known yet, and some for other claims that were faster.
        const REFILLS: usize = 6;
        let key = stripes::key(self.jobs.oid(), queue.id);
        let kinds: Option<Vec<u32>> = self.claim.kinds.map(|kinds| kinds.iter().map(|kind| kind_hash(kind.bytes())).collect());
        let mut refills = 0usize;
        while !self.is_done() {
            pg::server::check_for_interrupts();
            let left = usize::try_from(self.claim.batch.saturating_sub(self.claimed.count)).unwrap_or(1);
            let Some(taken) = stripes::take(&key, left, kinds.as_deref()) else {
                return self.indexed(queue, dispatch::Key::MIN, i64::MIN);
            };
            if !taken.candidates.is_empty() {
                if !self.candidates(queue, &key, &taken)? {
                    return self.indexed(queue, dispatch::Key::MIN, taken.now);
                }
                continue;
            }
            let side = match taken.found {
                Found::Short(side) => side,
                Found::Again => continue,
                Found::TooFar => {
                    look_again();
                    return self.indexed(queue, dispatch::Key::MIN, taken.now);
                }
                Found::Nothing { .. } | Found::Candidate(_) => break,
            };
            // For a claim with a filter another refill would not find more of its kinds than the index does.
            let worth_it = kinds.is_none() || side == Side::Due || taken.horizon == dispatch::Key::MIN;
            if worth_it && refills < REFILLS && candidates::refill(self.jobs, &key, side)? {
                refills = refills.saturating_add(1);
                continue;
            }
            let from = if side == Side::Ready { taken.horizon } else { dispatch::Key::MIN };
            look_again();
            return self.indexed(queue, from, taken.now);
        }
        Ok(true)
    }

    /// Claims those of the candidates that are what they seem; whoever holds another one will offer it. False: it takes the index.
    fn candidates(&mut self, queue: &Queue, key: &QueueKey, taken: &Taken) -> Result<bool, Error> {
        let places: Vec<notes::Place> = taken.candidates.iter().map(|candidate| notes::takes(key, *candidate)).collect();
        let now = Timestamp::now();
        look_again();
        let Some(first) = taken.candidates.first() else { return Ok(true) };
        let by_id = |candidate: &Candidate| [heap::Key::uuid_is(1, Uuid::from_u128(candidate.id))];
        let scan = self.jobs.scan(&JOB_KEY, &by_id(first));
        let Some(mut scan) = scan else {
            stripes::offer(key, taken.candidates.iter());
            places.into_iter().for_each(notes::not_taken);
            return Ok(false);
        };
        let mut all_as_they_seem = true;
        let memory = RowMemory::within_current();
        for (n, (candidate, place)) in taken.candidates.iter().zip(places).enumerate() {
            if n > 0 {
                pg::server::check_for_interrupts();
                scan.restart(&by_id(candidate));
            }
            let Some(row) = scan.next_row().filter(|row| row.letter(job::state) == Some(b'p')) else {
                notes::not_taken(place);
                continue;
            };
            let found = candidate_of(&row);
            if found.run_at > taken.now || !is_wanted(&row, self.claim.kinds) {
                // Not yet, or another kind with the same hash.
                all_as_they_seem &= found.run_at > taken.now;
                stripes::offer(key, std::iter::once(&found));
                notes::not_taken(place);
                continue;
            }
            notes::took(key, place, found);
            if !memory.hold(|| self.take(&row, queue, now))? {
                notes::not_taken(place);
            }
        }
        Ok(all_as_they_seem)
    }

    /// Makes a ready row a running one and hands it out; false when somebody else has it.
    fn take(&mut self, row: &Row<'_>, queue: &Queue, now: Timestamp) -> Result<bool, Error> {
        let previous = row.bigint(job::lease).unwrap_or(0);
        let lease = lease::next(previous, self.claim.clock_part, lease::random_part(pg::server::random_bits()));
        let claim = Claim { now, ..*self.claim };
        let names = (Param::from(queue.name.as_str()), Param::from(claim.worker));
        let taken = take(self.jobs, row, queue, &claim, lease, names, self.sink)?;
        if taken {
            self.claimed.count = self.claimed.count.saturating_add(1);
            self.claimed.from_clock &= lease::from_clock(lease, claim.clock_part);
        }
        Ok(taken)
    }
}

/// A lease's length as its column has it: at most a week.
fn length(lease_ms: i64) -> Result<Param, Error> {
    let length = i32::try_from(lease_ms).map_err(|_| Error::internal("a lease is too long for its column"))?;
    Ok(length.into())
}

fn is_wanted(row: &Row<'_>, kinds: Option<&[Text]>) -> bool {
    kinds.is_none_or(|kinds| row.text(job::kind).is_some_and(|kind| kinds.iter().any(|wanted| wanted.bytes() == kind.bytes())))
}

/// Makes a ready row a running one and hands it out; false when somebody else has it.
fn take(
    jobs: &Table,
    row: &Row<'_>,
    queue: &Queue,
    claim: &Claim<'_>,
    lease: i64,
    (queue_name, worker): (Param, Param),
    sink: &RowSink,
) -> Result<bool, Error> {
    let attempt = small(row.int(job::attempt).unwrap_or(0).saturating_add(1))?;
    let lease_ms = claim.lease_ms.unwrap_or(queue.lease_ms);
    let expires_at = claim.now.plus_ms(lease_ms);
    let timeout_ms = row.bigint(job::timeout_ms).unwrap_or(queue.timeout_ms);
    let deadline_at = (timeout_ms > 0).then(|| claim.now.plus_ms(timeout_ms));
    let mut changes = vec![
        (job::state, Param::letter(b'r')),
        (job::attempt, attempt.into()),
        (job::lease, lease.into()),
        (job::claimed_at, claim.now.into()),
        (job::lease_expires_at, expires_at.into()),
        (job::lease_ms, length(lease_ms)?),
        (job::deadline_at, deadline_at.into()),
        (job::worker, worker),
    ];
    // The key is given up at the first claim.
    if row.boolean(job::unique_pending) == Some(true) && !row.value(job::unique_key).is_null() {
        changes.push((job::spent_key, row.value(job::unique_key)));
        changes.push((job::unique_key, Param::NULL));
    }
    if claim.bound {
        changes.push((job::bound, true.into()));
    }
    let Some(block) = jobs.update_if_free(row, &changes)? else { return Ok(false) };
    blocks::mark(block);
    if claim.bound {
        leases::bind(row.uuid(job::id).unwrap_or_default(), lease, lease_ms, claim.now)?;
    }
    sink.put(&[
        row.value(job::id),
        lease.into(),
        queue_name,
        row.value(job::kind),
        row.value(job::payload),
        row.value(job::headers),
        i32::from(attempt).into(),
        row.int(job::max_attempts).into(),
        row.int(job::priority).into(),
        row.value(job::enqueued_at),
        row.value(job::run_at),
        expires_at.into(),
        deadline_at.into(),
        row.int(job::crashes).into(),
        row.last_element_field(job::errors, "error"),
    ]);
    Ok(true)
}

/// heartbeat.sql: whether cancellation was asked for. Inner None when the lease is stale, or somebody is just changing the row.
pub fn heartbeat(id: Uuid, lease: i64, sign: &Sign) -> Result<Option<Option<bool>>, Error> {
    direct([jobs(Use::Update)], |[jobs]| {
        let Some(mut scan) = jobs.scan(&JOB_KEY, &[Key::uuid_is(1, id)]) else { return Ok(None) };
        let Some(row) = scan.next_row().filter(|row| is_held(row, lease)) else { return Ok(Some(None)) };
        let lease_ms = row.int(job::lease_ms).map_or(0, i64::from);
        let expires_at = sign.now.plus_ms(sign.lease_ms.unwrap_or(lease_ms));
        let mut changes = vec![
            (job::seen_at, row.timestamp(job::seen_at).max(row.timestamp(job::claimed_at)).max(Some(sign.now)).into()),
            (job::lease_ms, length(sign.lease_ms.unwrap_or(lease_ms).max(lease_ms))?),
            (job::lease_expires_at, row.timestamp(job::lease_expires_at).max(Some(expires_at)).into()),
        ];
        if let Some(progress) = sign.progress {
            changes.push((job::progress, progress.into()));
        }
        if !sign.note.is_null() {
            changes.push((job::note, sign.note));
        }
        let Some(block) = jobs.update_if_free(&row, &changes)? else { return Ok(Some(None)) };
        blocks::mark(block);
        Ok(Some(Some(row.boolean(job::cancel_requested) == Some(true))))
    })
}

/// A row whose lease is current.
pub struct Held {
    pub cancel_requested: bool,
    pub lease_ms: i64,
    pub expires_at: Timestamp,
    pub progress: f64,
    /// Written by this very transaction.
    pub is_own: bool,
}

/// What the row of a lease says; inner None when the lease is stale. Nothing is locked.
pub fn held(id: Uuid, lease: i64) -> Result<Option<Option<Held>>, Error> {
    direct([jobs(Use::Read)], |[jobs]| {
        let Some(mut scan) = jobs.scan(&JOB_KEY, &[Key::uuid_is(1, id)]) else { return Ok(None) };
        let row = scan.next_row().filter(|row| is_held(row, lease));
        Ok(Some(row.and_then(|row| {
            Some(Held {
                cancel_requested: row.boolean(job::cancel_requested) == Some(true),
                lease_ms: row.int(job::lease_ms).map_or(0, i64::from),
                expires_at: row.timestamp(job::lease_expires_at)?,
                progress: row.double(job::progress).unwrap_or(-1.0),
                is_own: row.is_own(),
            })
        })))
    })
}

fn is_held(row: &Row<'_>, lease: i64) -> bool {
    row.letter(job::state) == Some(b'r') && row.bigint(job::lease) == Some(lease)
}

/// A job that its worker says is done.
pub struct Finished {
    pub id: Uuid,
    pub lease: i64,
    pub result: Option<Jsonb>,
}

/// complete_many.sql (for one job complete_keep.sql and complete_drop.sql): the ids of those that are completed now. `given` is in the
/// order of the ids. Left out are stale leases, and all that follows a row that somebody has changed meanwhile: the rest is for the
/// statement, so that rows are still locked in the order of their ids.
pub fn complete(given: &[Finished], now: Timestamp, slot: i16) -> Result<Option<Vec<Uuid>>, Error> {
    let partition = CString::new(format!("_history_{slot:02}")).map_err(|_| Error::internal("a name has a zero byte"))?;
    let tables = [queues(Use::Read), jobs(Use::Delete), (partition.as_c_str(), &history::SPEC, Use::Insert)];
    direct(tables, |[queues, jobs, history]| {
        let Some(first) = given.first() else { return Ok(Some(Vec::new())) };
        let Some(mut scan) = jobs.scan(&JOB_KEY, &[Key::uuid_is(1, first.id)]) else { return Ok(None) };
        let Some(mut options) = queues.scan(&QUEUE_KEY, &[Key::int_is(1, 0)]) else { return Ok(None) };
        let mut keeps: HashMap<i32, bool> = HashMap::new();
        let mut kept = history.batch();
        let mut done = Vec::with_capacity(given.len());
        for job in given {
            pg::server::check_for_interrupts();
            scan.restart(&[Key::uuid_is(1, job.id)]);
            let Some(row) = scan.next_row().filter(|row| is_held(row, job.lease)) else { continue };
            let queue = row.int(job::queue_id).unwrap_or(0);
            let keep = *keeps.entry(queue).or_insert_with(|| {
                options.restart(&[Key::int_is(1, queue)]);
                options.next_row().and_then(|queue| queue.boolean(queue::keep_completed)).unwrap_or(true)
            });
            if !jobs.delete(&row) {
                break;
            }
            let key = stripes::key(jobs.oid(), queue);
            counts::add(&key, What::Unfinished, -1);
            if keep {
                Kept { state: b'c', at: now, worker: row.text(job::worker) }.add(&key, 1);
                kept.add(&completed(&row, job, now, slot))?;
            }
            done.push(job.id);
        }
        kept.flush();
        Ok(Some(done))
    })
}

/// The row of the history that a running job becomes.
fn completed(row: &Row<'_>, job: &Finished, now: Timestamp, slot: i16) -> [Param; history::COLUMNS] {
    let unique_key = row.value(if row.value(job::unique_key).is_null() { job::spent_key } else { job::unique_key });
    [
        row.value(job::id),
        row.value(job::enqueued_at),
        row.value(job::run_at),
        now.into(),
        row.value(job::queue_id),
        slot.into(),
        row.value(job::priority),
        row.value(job::max_attempts),
        row.value(job::crashes),
        row.value(job::attempt),
        Param::letter(b'c'),
        row.value(job::unique_pending),
        row.value(job::timeout_ms),
        job.lease.into(),
        row.value(job::claimed_at),
        leases::known(job.id, job.lease)
            .map(|known| known.2)
            .filter(|progress| *progress >= 0.0)
            .map_or_else(|| row.value(job::progress), Param::from),
        row.value(job::note),
        row.value(job::worker),
        unique_key,
        row.value(job::headers),
        row.value(job::errors),
        job.result.into(),
        row.value(job::kind),
        row.value(job::payload),
    ]
}
