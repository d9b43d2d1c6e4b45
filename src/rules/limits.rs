//! Every maximum, with its reason.

/// Jobs one claim or one enqueue call may move: bounds the memory and the locks of one statement.
pub const BATCH_MAX: i32 = 10_000;
/// `priority` 0..=32767: small is urgent.
pub const PRIORITY_MAX: i32 = 32_767;
/// Attempts of one job. Retries beyond that are a schedule, not a retry.
pub const ATTEMPTS_MAX: i32 = 1_000;
/// Crashes a queue may tolerate per job.
pub const CRASHES_MAX: i32 = 1_000;
/// A lease shorter than a second would be lost to an ordinary pause of a worker.
pub const LEASE_MIN_MS: i64 = 1_000;
/// A lease longer than a week hides a dead worker for too long; heartbeats extend it.
pub const LEASE_MAX_MS: i64 = 7 * DAY_MS;
/// `timeout` of one attempt.
pub const TIMEOUT_MIN_MS: i64 = 1;
pub const TIMEOUT_MAX_MS: i64 = 366 * DAY_MS;
/// `run_at` and `delay` reach this far: further is a unit mistake (nanoseconds given as seconds).
pub const AHEAD_MAX_MS: i64 = 3_653 * DAY_MS;
/// Retention of finished jobs.
pub const RETENTION_MIN_MS: i64 = 1_000;
pub const RETENTION_MAX_MS: i64 = 3_653 * DAY_MS;
/// Error text kept per attempt, in bytes.
pub const ERROR_BYTES: usize = 8 * 1024;
/// Attempts whose error is kept.
pub const ERRORS_KEPT: i32 = 20;
/// `note` of a heartbeat, in characters.
pub const NOTE_CHARS: usize = 200;
/// `unique_key`, in bytes: a btree entry holds about 2700.
pub const UNIQUE_KEY_BYTES: usize = 1_024;
/// Headers, in bytes.
pub const HEADERS_BYTES: usize = 64 * 1024;
/// Queues named in one claim.
pub const QUEUES_PER_CLAIM: usize = 64;
/// `wait` of claim_wait: longer is a connection that nobody looks after.
pub const WAIT_MAX_MS: i64 = 60 * 60 * 1_000;
/// `kinds` of one claim.
pub const KINDS_PER_CLAIM: usize = 1_000;
/// Jobs one rescue pass or retry_failed takes unless told otherwise.
pub const PASS_DEFAULT: i32 = 1_000;
/// Jobs one purge takes unless told otherwise, and the most it takes.
pub const PURGE_DEFAULT: i32 = 10_000;
pub const PURGE_MAX: i32 = 1_000_000;
/// Text of a schedule's cron expression.
pub const CRON_BYTES: usize = 256;
/// A schedule's interval, in seconds: longer is a date.
pub const EVERY_MAX_S: i64 = 366 * 86_400;
/// `jitter` of a schedule.
pub const JITTER_MAX_MS: i64 = 60 * 60 * 1_000;
/// A tick that is later than this was missed. A restart of the server, or of the maintainer, is shorter.
pub const LATE_MS: i64 = 60_000;
/// `catch_up_max` of a schedule, and its default.
pub const CATCH_UP_MAX: i32 = 10_000;
pub const CATCH_UP_DEFAULT: i32 = 100;
/// Runs that preview shows unless told otherwise, and the most it shows.
pub const PREVIEW_DEFAULT: i32 = 10;
pub const PREVIEW_MAX: i32 = 1_000;

pub const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
