//! enqueue, enqueue_many, enqueue_jobs.

use super::{fits, label, options, payload, priority, queue_name, required, run_at, unknown_field, within};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::datum::{JsonKind, Jsonb, Text};
use crate::pg::spi::{Param, Session};
use crate::pg::switch::as_owner;
use crate::rules::limits::{ATTEMPTS_MAX, BATCH_MAX, HEADERS_BYTES, TIMEOUT_MAX_MS, TIMEOUT_MIN_MS, UNIQUE_KEY_BYTES};
use crate::rules::names::DEFAULT_QUEUE;
use crate::rules::span::Span;
use crate::store;
use crate::store::enqueue::{NewJob, UniqueKey};
use crate::store::queues::Queue;
use std::collections::HashMap;
use uuid::Uuid;

/// The arguments of one job as they came.
struct Given {
    kind: Option<Text>,
    queue: Option<Text>,
    priority: Option<i32>,
    run_at: Option<Timestamp>,
    delay: Option<Span>,
    max_attempts: Option<i32>,
    timeout: Option<Span>,
    unique_key: Option<Text>,
    headers: Option<Jsonb>,
    options: Option<Jsonb>,
}

/// The same, checked. What is None comes from the queue.
struct Request {
    kind: String,
    queue: String,
    priority: Option<i32>,
    now: Timestamp,
    run_at: Timestamp,
    max_attempts: Option<i32>,
    timeout_ms: Option<i64>,
    unique: Option<UniqueKey>,
    headers: Option<Jsonb>,
}

impl Given {
    fn check(&self, now: Timestamp, known_options: &[&str]) -> Result<Request, Error> {
        let kind = required(self.kind, "kind")?;
        let while_pending = unique_while_pending(self.options, known_options)?;
        let headers = self.headers.map(|headers| {
            if headers.kind() != JsonKind::Object {
                return Err(Error::invalid("headers", "be a JSON object"));
            }
            fits(headers, "headers", HEADERS_BYTES)
        });
        Ok(Request {
            kind: label(&kind, "kind")?.to_string(),
            queue: queue_name(&self.queue, "queue")?.unwrap_or(DEFAULT_QUEUE).to_string(),
            priority: priority(self.priority, "priority")?,
            now,
            run_at: run_at(now, self.run_at, self.delay)?,
            max_attempts: self.max_attempts.map(|n| within(n, "max_attempts", 1, ATTEMPTS_MAX)).transpose()?,
            timeout_ms: self.timeout.map(|timeout| timeout.millis("timeout", TIMEOUT_MIN_MS, TIMEOUT_MAX_MS)).transpose()?,
            unique: self.unique_key.map(|key| unique_key(key, while_pending)).transpose()?,
            headers: headers.transpose()?,
        })
    }
}

fn unique_key(key: Text, while_pending: bool) -> Result<UniqueKey, Error> {
    match key.bytes().len() {
        0 => Err(Error::invalid("unique_key", "not be empty")),
        n if n > UNIQUE_KEY_BYTES => {
            Err(Error::TooLong { argument: "unique_key", limit: format!("{UNIQUE_KEY_BYTES} bytes"), size: format!("{n} bytes") })
        }
        _ => Ok(UniqueKey { key, while_pending }),
    }
}

/// `options.unique_while`: "unfinished" (the default) or "pending".
fn unique_while_pending(document: Option<Jsonb>, known: &[&str]) -> Result<bool, Error> {
    let fields = options(document, known)?;
    match fields.get("unique_while") {
        None => Ok(false),
        Some(value) => match value.as_str() {
            Some("unfinished") => Ok(false),
            Some("pending") => Ok(true),
            _ => Err(Error::invalid_value("options.unique_while", "be \"unfinished\" or \"pending\"", value)),
        },
    }
}

impl Request {
    fn row<'r>(&'r self, queue: &Queue) -> NewJob<'r> {
        NewJob {
            enqueued_at: self.now,
            run_at: self.run_at,
            scheduled: self.run_at > self.now,
            timeout_ms: self.timeout_ms,
            queue: queue.id,
            priority: self.priority.unwrap_or(queue.default_priority),
            max_attempts: self.max_attempts.unwrap_or(queue.max_attempts),
            headers: self.headers,
            kind: &self.kind,
        }
    }
}

/// Adds a job: its id, or that of the unfinished job with the same key, and whether it is new.
fn add(session: &Session, queue: &Queue, request: &Request, id: Uuid, payload: Param) -> Result<(Uuid, bool), Error> {
    store::enqueue::add_or_find(session, queue, id, &request.row(queue), payload, request.unique)
}

/// `jobq.enqueue(kind, payload, queue, priority, run_at, delay, max_attempts, timeout, unique_key, headers, options)`
pub fn enqueue(call: &Call) -> Outcome {
    let given = Given {
        kind: call.text(0),
        queue: call.text(2),
        priority: call.int(3),
        run_at: call.timestamp(4),
        delay: call.interval(5),
        max_attempts: call.int(6),
        timeout: call.interval(7),
        unique_key: call.text(8),
        headers: call.jsonb(9),
        options: call.jsonb(10),
    };
    let request = given.check(Timestamp::now(), &["unique_while"])?;
    let document = payload(required(call.jsonb(1), "payload")?, "payload")?;
    let id = Uuid::now_v7();
    if request.unique.is_none()
        && store::direct::enqueue(&request.queue, &[(id, document)], |queue| request.row(queue))?.is_some()
    {
        return Ok(Answer::Uuid(id));
    }
    let (id, _) = as_owner(|session| {
        let queue = store::queues::by_name(session, &request.queue)?;
        add(session, &queue, &request, id, document.into())
    })?;
    Ok(Answer::Uuid(id))
}

/// The number of elements of an array argument, at most BATCH_MAX.
fn array_len(document: Jsonb, argument: &'static str) -> Result<usize, Error> {
    if document.kind() != JsonKind::Array {
        return Err(Error::invalid(argument, "be a JSON array"));
    }
    match document.element_count() {
        n if n > BATCH_MAX as usize => {
            Err(Error::TooLong { argument, limit: format!("{BATCH_MAX} elements"), size: format!("{n} elements") })
        }
        n => Ok(n),
    }
}

/// `jobq.enqueue_many(kind, payloads, queue, priority, run_at, delay, max_attempts, timeout, headers, options)`
pub fn enqueue_many(call: &Call) -> Outcome {
    let given = Given {
        kind: call.text(0),
        queue: call.text(2),
        priority: call.int(3),
        run_at: call.timestamp(4),
        delay: call.interval(5),
        max_attempts: call.int(6),
        timeout: call.interval(7),
        unique_key: None,
        headers: call.jsonb(8),
        options: call.jsonb(9),
    };
    let request = given.check(Timestamp::now(), &[])?;
    let payloads = required(call.jsonb(1), "payloads")?;
    let count = array_len(payloads, "payloads")?;
    let sink = call.rows();
    let elements: Vec<Jsonb> = (0..count)
        .filter_map(|n| payloads.element(n))
        .map(|element| payload(element, "each element of payloads"))
        .collect::<Result<_, _>>()?;
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let added: Vec<(Uuid, Jsonb)> = ids.iter().copied().zip(elements).collect();
    let directly = store::direct::enqueue(&request.queue, &added, |queue| request.row(queue))?;
    if directly.is_none() {
        as_owner(|session| {
            let queue = store::queues::by_name(session, &request.queue)?;
            if count == 0 {
                return Ok(());
            }
            store::enqueue::check_depth(session, &queue, i64::try_from(count).unwrap_or(i64::MAX))?;
            if store::enqueue::add_many(session, &ids, &request.row(&queue), payloads)? != count {
                return Err(Error::internal("not every job was added"));
            }
            Ok(())
        })?;
    }
    for id in ids {
        sink.put(&[id.into(), true.into()]);
    }
    Ok(Answer::Null)
}

/// One element of enqueue_jobs' array.
struct Spec {
    request: Request,
    payload: Jsonb,
    id: Uuid,
}

/// `jobq.enqueue_jobs(jobs)`
pub fn enqueue_jobs(call: &Call) -> Outcome {
    let jobs = required(call.jsonb(0), "jobs")?;
    array_len(jobs, "jobs")?;
    let sink = call.rows();
    let added = as_owner(|session| {
        let rows = store::enqueue::job_specs(session, jobs)?;
        let now = Timestamp::now();
        let specs: Vec<Spec> = (0..rows.count()).map(|row| read_spec(&rows, row, now)).collect::<Result<_, _>>()?;
        add_specs(session, &specs)
    })?;
    for (id, created) in added {
        sink.put(&[id.into(), created.into()]);
    }
    Ok(Answer::Null)
}

const SPEC_FIELDS: [&str; 11] =
    ["kind", "payload", "queue", "priority", "run_at", "delay", "max_attempts", "timeout", "unique_key", "headers", "options"];

/// Reads the row that sql/queries/job_specs.sql makes of one element.
fn read_spec(rows: &pg::spi::Rows<'_>, row: usize, now: Timestamp) -> Result<Spec, Error> {
    if rows.boolean(row, 1) != Some(true) {
        return Err(Error::invalid("each element of jobs", "be a JSON object"));
    }
    if let Some(field) = rows.string(row, 2) {
        return Err(unknown_field("each element of jobs", &field, &SPEC_FIELDS));
    }
    if let Some(problem) = rows.string(row, 3) {
        return Err(Error::invalid("each element of jobs", format!("have fields of the right type: {problem}")));
    }
    let given = Given {
        kind: rows.text(row, 4),
        queue: rows.text(row, 6),
        priority: rows.int(row, 7),
        run_at: rows.timestamp(row, 8),
        delay: rows.interval(row, 9),
        max_attempts: rows.int(row, 10),
        timeout: rows.interval(row, 11),
        unique_key: rows.text(row, 12),
        headers: rows.jsonb(row, 13),
        options: rows.jsonb(row, 14),
    };
    let document = required(rows.jsonb(row, 5), "payload")?;
    Ok(Spec { request: given.check(now, &["unique_while"])?, payload: payload(document, "payload")?, id: Uuid::now_v7() })
}

/// Adds the jobs, those with keys in the order of their keys: two calls with the same keys in other orders cannot deadlock.
fn add_specs(session: &Session, specs: &[Spec]) -> Result<Vec<(Uuid, bool)>, Error> {
    let mut order: Vec<(usize, &Spec)> = specs.iter().enumerate().collect();
    order.sort_by_key(|(place, spec)| {
        (spec.request.unique.map(|unique| (&spec.request.queue, unique.key.bytes().to_vec())), *place)
    });
    let mut queues: HashMap<&str, Queue> = HashMap::new();
    let mut added: Vec<(usize, Uuid, bool)> = Vec::with_capacity(specs.len());
    for (place, spec) in order {
        let name = spec.request.queue.as_str();
        let queue = match queues.entry(name) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => unknown.insert(store::queues::by_name(session, name)?),
        };
        let (id, created) = add(session, queue, &spec.request, spec.id, spec.payload.into())?;
        added.push((place, id, created));
    }
    added.sort_by_key(|(place, _, _)| *place);
    Ok(added.into_iter().map(|(_, id, created)| (id, created)).collect())
}
