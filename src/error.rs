//! Everything jobq refuses, each with its SQLSTATE, message, DETAIL (facts) and HINT (the way out).
//! Class JQ is part of the contract; docs/reference/errors.md lists them all.

use uuid::Uuid;

/// A refusal. Raised as a Postgres ERROR by `pg::call` and by nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// JQ001: the lease is not the job's current one. `now` says who holds the job or what became of it, never the lease.
    LeaseLost { id: Uuid, now: String },
    /// JQ002: this very lease has finished the job before.
    AlreadyFinished { id: Uuid, state: String },
    /// JQ003: never existed, deleted, or past its retention.
    NoSuchJob { id: Uuid },
    /// JQ004: not a legal move from the job's state.
    IllegalMove { id: Uuid, verb: &'static str, state: String, hint: &'static str },
    /// JQ005: a handler asks to be tried again later: jobq.snooze.
    Snoozed { milliseconds: i64 },
    /// JQ006: a handler gives its job up: jobq.discard.
    Discarded { reason: String },
    /// 22004
    Null { argument: &'static str },
    /// 22023: outside its domain. `rule` finishes the sentence "<argument> must ...".
    Invalid { argument: String, rule: String, value: Option<String>, hint: Option<&'static str> },
    /// 22001
    TooLong { argument: &'static str, limit: String, size: String },
    /// 22021: text that is not valid in UTF-8 where a name is asked for.
    BadEncoding { argument: &'static str },
    /// 53400
    QueueFull { queue: String, max_depth: i64 },
    /// 42704
    UnknownQueue { queue: String },
    /// 42704
    UnknownRole,
    /// 42710
    QueueExists { queue: String },
    /// 2BP01
    QueueInUse { queue: String, unfinished: i64 },
    /// 42704: a handler or a pool.
    Unknown { what: &'static str, name: String },
    /// 42710: a handler or a pool.
    Exists { what: &'static str, name: String, hint: &'static str },
    /// 42501: `what` finishes the sentence "jobq: ...".
    NotAllowed { what: String, hint: &'static str },
    /// 2BP01
    QueueScheduled { queue: String, schedules: i64, first: String },
    /// 42704
    UnknownSchedule { schedule: String },
    /// 42710
    ScheduleExists { schedule: String },
    /// 40001: other sessions changed the same rows at the same time, again and again.
    Contended,
    /// 53400
    NoPlaceForLease,
    /// 55000: what needs the shared memory of a preloaded library.
    NeedsPreload { feature: &'static str },
    /// 25001: a procedure that commits was called where it cannot.
    InTransactionBlock { procedure: &'static str },
    /// 0A000: it would have to be told to shared memory when somebody commits it or rolls it back.
    NotToBePrepared,
    /// 08006: the client went away while its call waited; nobody reads this.
    ClientGone,
    /// XX000: the database contradicts jobq. Always a bug, or tables changed by hand.
    Internal { what: String },
}

/// How much of a value a message may repeat.
const SHOWN_CHARS: usize = 80;

impl Error {
    /// 22023 without a value worth repeating.
    pub fn invalid(argument: &str, rule: impl Into<String>) -> Self {
        Error::Invalid { argument: argument.into(), rule: rule.into(), value: None, hint: None }
    }

    /// 22023 that repeats the value when it is short.
    pub fn invalid_value(argument: &str, rule: impl Into<String>, value: impl ToString) -> Self {
        let value = value.to_string();
        let value = (value.chars().count() <= SHOWN_CHARS).then_some(value);
        Error::Invalid { argument: argument.into(), rule: rule.into(), value, hint: None }
    }

    pub fn with_hint(self, text: &'static str) -> Self {
        match self {
            Error::Invalid { argument, rule, value, .. } => Error::Invalid { argument, rule, value, hint: Some(text) },
            other => other,
        }
    }

    pub fn internal(what: impl Into<String>) -> Self {
        Error::Internal { what: what.into() }
    }

    /// Five characters, as in the Postgres manual, appendix A.
    pub fn sqlstate(&self) -> [u8; 5] {
        *match self {
            Error::LeaseLost { .. } => b"JQ001",
            Error::AlreadyFinished { .. } => b"JQ002",
            Error::NoSuchJob { .. } => b"JQ003",
            Error::IllegalMove { .. } => b"JQ004",
            Error::Snoozed { .. } => b"JQ005",
            Error::Discarded { .. } => b"JQ006",
            Error::Null { .. } => b"22004",
            Error::Invalid { .. } => b"22023",
            Error::TooLong { .. } => b"22001",
            Error::BadEncoding { .. } => b"22021",
            Error::QueueFull { .. } => b"53400",
            Error::UnknownQueue { .. } | Error::UnknownRole | Error::UnknownSchedule { .. } | Error::Unknown { .. } => b"42704",
            Error::QueueExists { .. } | Error::ScheduleExists { .. } | Error::Exists { .. } => b"42710",
            Error::NotAllowed { .. } => b"42501",
            Error::QueueInUse { .. } | Error::QueueScheduled { .. } => b"2BP01",
            Error::Contended => b"40001",
            Error::NoPlaceForLease => b"53400",
            Error::NeedsPreload { .. } => b"55000",
            Error::InTransactionBlock { .. } => b"25001",
            Error::NotToBePrepared => b"0A000",
            Error::ClientGone => b"08006",
            Error::Internal { .. } => b"XX000",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Error::LeaseLost { id, .. } => format!("jobq: the lease on job {id} is no longer held"),
            Error::AlreadyFinished { id, .. } => format!("jobq: this lease has already finished job {id}"),
            Error::NoSuchJob { id } => format!("jobq: there is no job {id}"),
            Error::IllegalMove { id, verb, state, .. } => format!("jobq: cannot {verb} job {id}: it is {state}"),
            Error::Snoozed { milliseconds } => format!("jobq: the job is to be tried again in {milliseconds} ms"),
            Error::Discarded { reason } => reason.clone(),
            Error::Null { argument } => format!("jobq: {argument} must not be NULL"),
            Error::Invalid { argument, rule, .. } => format!("jobq: {argument} must {rule}"),
            Error::TooLong { argument, limit, .. } => format!("jobq: {argument} is longer than {limit}"),
            Error::BadEncoding { argument } => format!("jobq: {argument} is not valid UTF-8"),
            Error::QueueFull { queue, max_depth } => format!("jobq: queue {queue} is at its max_depth of {max_depth} jobs"),
            Error::UnknownQueue { queue } => format!("jobq: there is no queue {queue}"),
            Error::UnknownRole => "jobq: there is no such role".into(),
            Error::Unknown { what, name } => format!("jobq: there is no {what} {name}"),
            Error::Exists { what, name, .. } => format!("jobq: {what} {name} already exists"),
            Error::NotAllowed { what, .. } => format!("jobq: {what}"),
            Error::QueueExists { queue } => format!("jobq: queue {queue} already exists"),
            Error::QueueInUse { queue, .. } => format!("jobq: queue {queue} has unfinished jobs"),
            Error::QueueScheduled { queue, .. } => format!("jobq: schedules enqueue to queue {queue}"),
            Error::UnknownSchedule { schedule } => format!("jobq: there is no schedule {schedule}"),
            Error::ScheduleExists { schedule } => format!("jobq: schedule {schedule} already exists"),
            Error::Contended => "jobq: other sessions changed the same rows at the same time".into(),
            Error::NoPlaceForLease => "jobq: no place is free for a lease that is bound to a session".into(),
            Error::NeedsPreload { feature } => format!("jobq: {feature} needs jobq in shared_preload_libraries"),
            Error::InTransactionBlock { procedure } => format!("jobq: {procedure} cannot run inside a transaction block"),
            Error::NotToBePrepared => {
                "jobq: a transaction that claims jobs for this session, or rescues jobs, cannot be prepared".into()
            }
            Error::ClientGone => "jobq: the client is gone".into(),
            Error::Internal { what } => format!("jobq: {what}"),
        }
    }

    pub fn detail(&self) -> Option<String> {
        match self {
            Error::LeaseLost { now, .. } => Some(now.clone()),
            Error::Snoozed { milliseconds } => Some(milliseconds.to_string()),
            Error::AlreadyFinished { state, .. } => Some(format!("The job is {state}.")),
            Error::Invalid { value: Some(value), .. } => Some(format!("It is \"{value}\".")),
            Error::TooLong { size, .. } => Some(format!("It has {size}.")),
            Error::QueueInUse { unfinished, .. } => Some(format!("Unfinished jobs: {unfinished}.")),
            Error::QueueScheduled { schedules, first, .. } => Some(format!("Schedules: {schedules}, the first is {first}.")),
            _ => None,
        }
    }

    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::LeaseLost { .. } => {
                Some("Roll back and forget the job: somebody else works on it, or it is over. Do not repeat the call.")
            }
            Error::AlreadyFinished { .. } => Some("An earlier commit went through: roll back and count the job as done."),
            Error::IllegalMove { hint, .. } | Error::Exists { hint, .. } | Error::NotAllowed { hint, .. } => Some(hint),
            Error::Snoozed { .. } | Error::Discarded { .. } => {
                Some("A pool's worker does what it says; any other caller of a handler has to.")
            }
            Error::Invalid { hint, .. } => *hint,
            Error::QueueFull { .. } => Some("Try again later, or raise max_depth with jobq.alter_queue."),
            Error::UnknownQueue { .. } => Some("Create it with jobq.create_queue."),
            Error::QueueExists { .. } => Some("Change its options with jobq.alter_queue."),
            Error::QueueInUse { .. } => Some("Pass force => true to drop them too."),
            Error::QueueScheduled { .. } => {
                Some("Alter or unschedule them first; or pass force => true, and they fail until they are altered.")
            }
            Error::UnknownSchedule { .. } => Some("The view jobq.schedules has them all."),
            Error::ScheduleExists { .. } => Some("Change it with jobq.alter_schedule."),
            Error::NoPlaceForLease => Some("Raise jobq.max_leases, or use bind => 'lease'."),
            Error::NotToBePrepared => Some("Commit it in one phase. Claims with bind => 'lease' can be prepared."),
            Error::NeedsPreload { .. } => Some("Add it to shared_preload_libraries and restart the server."),
            Error::InTransactionBlock { .. } => Some(
                "Call it in autocommit mode, alone: not between BEGIN and COMMIT, with other statements in one message or pipeline, or in a function.",
            ),
            Error::Internal { .. } => Some("Were jobq's private tables changed by hand? If not, this is a bug in jobq."),
            _ => None,
        }
    }
}
