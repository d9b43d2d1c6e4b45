//! schedule, alter_schedule, unschedule, pause_schedule, resume_schedule, run_now, preview.

use super::{fits, label, options, payload, priority, queue_name, required, within};
use crate::background::schedules::{run_now as enqueue_now, timetable};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::datum::{JsonKind, Jsonb, Text};
use crate::pg::spi::{Param, Session};
use crate::pg::switch::as_owner;
use crate::pg::{server, xact};
use crate::rules::limits::{
    AHEAD_MAX_MS, ATTEMPTS_MAX, CATCH_UP_DEFAULT, CATCH_UP_MAX, HEADERS_BYTES, JITTER_MAX_MS, PREVIEW_DEFAULT, PREVIEW_MAX,
    TIMEOUT_MAX_MS, TIMEOUT_MIN_MS,
};
use crate::rules::names::{self, DEFAULT_QUEUE};
use crate::rules::timetable::{Timetable, whole_second, zone};
use crate::store;
use crate::store::schedules::{Definition, Schedule};
use uuid::Uuid;

const DEFAULT_ZONE: &str = "UTC";
/// What alter_schedule can take away.
const CLEARABLE: [&str; 6] = ["starts_at", "ends_at", "priority", "max_attempts", "timeout", "headers"];

/// The schedule named by the first argument.
fn name(call: &Call) -> Result<String, Error> {
    let text = required(call.text(0), "name")?;
    let name = text.utf8("name")?;
    names::queue("name", name)?;
    Ok(name.to_string())
}

/// The arguments that schedule and alter_schedule share, checked; None: not given.
struct Given {
    cron: Option<String>,
    kind: Option<String>,
    payload: Option<Jsonb>,
    queue: Option<String>,
    /// As the database of zones writes it.
    timezone: Option<String>,
    catch_up: Option<String>,
    overlap: Option<String>,
    jitter_ms: Option<i64>,
    starts_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    priority: Option<i32>,
    max_attempts: Option<i32>,
    timeout_ms: Option<i64>,
    headers: Option<Jsonb>,
    catch_up_max: Option<i32>,
    clear: Vec<String>,
}

fn word(text: Option<Text>, argument: &'static str, known: &[&str]) -> Result<Option<String>, Error> {
    let Some(text) = text else { return Ok(None) };
    let given = text.utf8(argument)?;
    if known.contains(&given) {
        return Ok(Some(given.to_string()));
    }
    Err(Error::invalid_value(argument, format!("be {}", known.join(", ")), given.escape_debug()))
}

fn bound(at: Option<Timestamp>, argument: &'static str) -> Result<Option<Timestamp>, Error> {
    match at {
        Some(at) if !at.is_finite() => Err(Error::invalid(argument, "be finite")),
        Some(at) if argument == "starts_at" && at > Timestamp::now().plus_ms(AHEAD_MAX_MS) => {
            Err(Error::invalid(argument, "be at most 10 years ahead"))
        }
        at => Ok(at),
    }
}

impl Given {
    fn read(call: &Call, known_options: &[&str]) -> Result<Given, Error> {
        let text = |n: usize, argument: &'static str| -> Result<Option<String>, Error> {
            call.text(n).map(|text| text.utf8(argument).map(String::from)).transpose()
        };
        let queue = call.text(4);
        let headers = call.jsonb(14).map(|headers| {
            if headers.kind() != JsonKind::Object {
                return Err(Error::invalid("headers", "be a JSON object"));
            }
            fits(headers, "headers", HEADERS_BYTES)
        });
        let fields = options(call.jsonb(15), known_options)?;
        let catch_up_max = fields.get("catch_up_max").map(|value| {
            let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
            let refuse = || Error::invalid_value("options.catch_up_max", format!("be a number from 1 to {CATCH_UP_MAX}"), value);
            number.filter(|number| (1..=CATCH_UP_MAX).contains(number)).ok_or_else(refuse)
        });
        Ok(Given {
            cron: text(1, "cron")?.map(|cron| cron.trim().to_string()),
            kind: call.text(2).map(|kind| label(&kind, "kind").map(String::from)).transpose()?,
            payload: call.jsonb(3).map(|document| payload(document, "payload")).transpose()?,
            queue: queue_name(&queue, "queue")?.map(String::from),
            timezone: text(5, "timezone")?
                .map(|name| zone(&name))
                .transpose()?
                .and_then(|zone| zone.iana_name().map(String::from)),
            catch_up: word(call.text(6), "catch_up", &["skip", "last", "all"])?,
            overlap: word(call.text(7), "overlap", &["allow", "skip", "queue"])?,
            jitter_ms: call.interval(8).map(|span| span.millis("jitter", 0, JITTER_MAX_MS)).transpose()?,
            starts_at: bound(call.timestamp(9), "starts_at")?,
            ends_at: bound(call.timestamp(10), "ends_at")?,
            priority: priority(call.int(11), "priority")?,
            max_attempts: call.int(12).map(|n| within(n, "max_attempts", 1, ATTEMPTS_MAX)).transpose()?,
            timeout_ms: call.interval(13).map(|span| span.millis("timeout", TIMEOUT_MIN_MS, TIMEOUT_MAX_MS)).transpose()?,
            headers: headers.transpose()?,
            catch_up_max: catch_up_max.transpose()?,
            clear: clear(fields.get("clear"))?,
        })
    }

    /// What is given in place of what was there. True: the ticks are others.
    fn apply(self, to: &mut Definition) -> Result<bool, Error> {
        let before = (to.cron.clone(), to.timezone.clone(), to.starts_at, to.ends_at);
        for field in &self.clear {
            let is_given = match field.as_str() {
                "starts_at" => self.starts_at.is_some(),
                "ends_at" => self.ends_at.is_some(),
                "priority" => self.priority.is_some(),
                "max_attempts" => self.max_attempts.is_some(),
                "timeout" => self.timeout_ms.is_some(),
                _ => self.headers.is_some(),
            };
            if is_given {
                return Err(Error::invalid("options.clear", format!("not name {field}, which is given as well")));
            }
        }
        let keeps = |field: &str| !self.clear.iter().any(|cleared| cleared == field);
        set(&mut to.cron, self.cron);
        set(&mut to.kind, self.kind);
        set(&mut to.payload, self.payload);
        set(&mut to.queue, self.queue);
        set(&mut to.timezone, self.timezone);
        set(&mut to.catch_up, self.catch_up);
        set(&mut to.overlap, self.overlap);
        set(&mut to.jitter_ms, self.jitter_ms);
        set(&mut to.catch_up_max, self.catch_up_max);
        to.starts_at = self.starts_at.or(to.starts_at.filter(|_| keeps("starts_at")));
        to.ends_at = self.ends_at.or(to.ends_at.filter(|_| keeps("ends_at")));
        to.priority = self.priority.or(to.priority.filter(|_| keeps("priority")));
        to.max_attempts = self.max_attempts.or(to.max_attempts.filter(|_| keeps("max_attempts")));
        to.timeout_ms = self.timeout_ms.or(to.timeout_ms.filter(|_| keeps("timeout")));
        to.headers = self.headers.or(to.headers.filter(|_| keeps("headers")));
        Ok(before != (to.cron.clone(), to.timezone.clone(), to.starts_at, to.ends_at))
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// `options.clear`: names of arguments.
fn clear(value: Option<&serde_json::Value>) -> Result<Vec<String>, Error> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let rule = || format!("be an array of names: {}", CLEARABLE.join(", "));
    let names = value.as_array().ok_or_else(|| Error::invalid("options.clear", rule()))?;
    let known = |name: &serde_json::Value| name.as_str().filter(|name| CLEARABLE.contains(name)).map(String::from);
    names.iter().map(|name| known(name).ok_or_else(|| Error::invalid_value("options.clear", rule(), name))).collect()
}

/// The timetable, if its bounds are in order and it ever comes.
fn checked(definition: &Definition, now: Timestamp) -> Result<Timetable, Error> {
    let table = definition.timetable()?;
    if definition.ends_at.zip(definition.starts_at).is_some_and(|(ends_at, starts_at)| ends_at <= starts_at) {
        return Err(Error::invalid("ends_at", "be later than starts_at"));
    }
    if !table.ever_comes(now.0) {
        let rule = "name a time that comes: this one never does";
        return Err(Error::invalid_value("cron", rule, definition.cron.escape_debug()));
    }
    Ok(table)
}

/// Where intervals begin to count.
fn anchor(starts_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let now = Timestamp(now.0.div_euclid(1_000_000).saturating_mul(1_000_000));
    starts_at.map_or(now, |at| Timestamp(whole_second(at.0)))
}

fn next(table: &Timetable, now: Timestamp) -> Option<Timestamp> {
    table.next(now.0).map(Timestamp)
}

fn answer(at: Option<Timestamp>) -> Answer {
    at.map_or(Answer::Null, Answer::Timestamp)
}

/// `jobq.schedule(name, cron, kind, payload, queue, timezone, catch_up, overlap, jitter, starts_at, ends_at, priority, max_attempts,
/// timeout, headers, options)`
pub fn schedule(call: &Call) -> Outcome {
    let name = name(call)?;
    let given = Given::read(call, &["catch_up_max"])?;
    let now = Timestamp::now();
    let definition = Definition {
        anchor_at: anchor(given.starts_at, now),
        starts_at: given.starts_at,
        ends_at: given.ends_at,
        timeout_ms: given.timeout_ms,
        jitter_ms: given.jitter_ms.unwrap_or(0),
        priority: given.priority,
        max_attempts: given.max_attempts,
        catch_up_max: given.catch_up_max.unwrap_or(CATCH_UP_DEFAULT),
        cron: required(given.cron, "cron")?,
        timezone: given.timezone.unwrap_or_else(|| DEFAULT_ZONE.into()),
        catch_up: given.catch_up.unwrap_or_else(|| "last".into()),
        overlap: given.overlap.unwrap_or_else(|| "allow".into()),
        queue: given.queue.unwrap_or_else(|| DEFAULT_QUEUE.into()),
        kind: required(given.kind, "kind")?,
        headers: given.headers,
        payload: required(given.payload, "payload")?,
    };
    let next = next(&checked(&definition, now)?, now);
    as_owner(|session| {
        store::queues::by_name(session, &definition.queue)?;
        if store::schedules::create(session, Uuid::now_v7(), &name, now, next, &definition)? {
            return Ok(());
        }
        Err(Error::ScheduleExists { schedule: name.clone() })
    })?;
    xact::reschedule_at_commit();
    Ok(answer(next))
}

/// Runs `body` with the schedule of this name, locked.
fn locked<T>(session: &Session, name: &str, body: impl FnOnce(Schedule) -> Result<T, Error>) -> Result<T, Error> {
    let rows = store::schedules::lock(session, name)?;
    let schedule = store::schedules::read(&rows).ok_or_else(|| Error::UnknownSchedule { schedule: name.into() })?;
    body(schedule)
}

/// `jobq.alter_schedule(...)`: arguments as in schedule
pub fn alter_schedule(call: &Call) -> Outcome {
    let name = name(call)?;
    let given = Given::read(call, &["catch_up_max", "clear"])?;
    let next = as_owner(|session| {
        if let Some(queue) = &given.queue {
            store::queues::by_name(session, queue)?;
        }
        locked(session, &name, |schedule| {
            let now = Timestamp::now();
            let mut definition = schedule.definition.clone();
            let is_other = given.apply(&mut definition)?;
            if definition.cron != schedule.definition.cron || definition.starts_at != schedule.definition.starts_at {
                definition.anchor_at = anchor(definition.starts_at, now);
            }
            let next = if is_other { next(&checked(&definition, now)?, now) } else { schedule.next_at };
            let next = next.filter(|_| !schedule.paused);
            store::schedules::alter(session, schedule.id, next, &definition)?;
            Ok(next)
        })
    })?;
    xact::reschedule_at_commit();
    Ok(answer(next))
}

/// `jobq.unschedule(name)`
pub fn unschedule(call: &Call) -> Outcome {
    let name = name(call)?;
    let dropped = as_owner(|session| store::schedules::drop(session, &name))?;
    Ok(Answer::Bool(dropped))
}

fn set_paused(call: &Call, paused: bool) -> Outcome {
    let name = name(call)?;
    let changed = as_owner(|session| {
        locked(session, &name, |schedule| {
            let next = if paused { None } else { next(&schedule.definition.timetable()?, Timestamp::now()) };
            store::schedules::set_paused(session, schedule.id, paused, next)
        })
    })?;
    xact::reschedule_at_commit();
    Ok(Answer::Bool(changed))
}

/// `jobq.pause_schedule(name)`
pub fn pause_schedule(call: &Call) -> Outcome {
    set_paused(call, true)
}

/// `jobq.resume_schedule(name)`
pub fn resume_schedule(call: &Call) -> Outcome {
    set_paused(call, false)
}

/// `jobq.run_now(name)`
pub fn run_now(call: &Call) -> Outcome {
    let name = name(call)?;
    as_owner(|session| enqueue_now(session, &name)).map(Answer::Uuid)
}

/// `jobq.preview(name, n)`
pub fn preview(call: &Call) -> Outcome {
    let name = name(call)?;
    let n = call.int(1).map_or(Ok(PREVIEW_DEFAULT), |n| within(n, "n", 1, PREVIEW_MAX))?;
    let sink = call.values();
    let times = as_owner(|session| store::schedules::times(session, &name))?;
    let table = timetable(&times.cron, &times.timezone, times.anchor_at, times.starts_at, times.ends_at)?;
    let now = Timestamp::now();
    // After a clock was set back the ticks go on where they were.
    let first = times.next_at.filter(|next| *next > now).map_or_else(|| table.next(now.0), |next| Some(next.0));
    let ticks = std::iter::successors(first, |tick| table.next(*tick));
    for tick in ticks.take(usize::try_from(n).unwrap_or(0)) {
        server::check_for_interrupts();
        sink.put(&[Param::from(Timestamp(tick))]);
    }
    Ok(Answer::Null)
}
