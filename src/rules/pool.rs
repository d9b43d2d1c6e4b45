//! How the workers of a pool are kept running, with the words and the rules of process supervisors: a worker has started when it has
//! lived for start_seconds (startsecs); a start that fails is tried again after a pause that grows by a second each time, and after
//! start_retries (startretries) of them the worker is FATAL. Source: supervisord.org/subprocess.html, "Process States".

const SECOND_MICROS: i64 = 1_000_000;
/// The longest pause between two starts.
const BACKOFF_MAX_MICROS: i64 = 60 * SECOND_MICROS;
/// A process that has not shown up this long after it was asked for never will.
const NO_SHOW_MICROS: i64 = 30 * SECOND_MICROS;
/// A worker that does not stop although its job was cancelled gets this long before it is ended, again and again.
const URGE_MICROS: i64 = 5 * SECOND_MICROS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Starting,
    Running,
    /// A start has failed; the next one comes.
    Backoff,
    Stopping,
    Stopped,
    /// Given up: only start_pool starts it again.
    Fatal,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "STARTING",
            State::Running => "RUNNING",
            State::Backoff => "BACKOFF",
            State::Stopping => "STOPPING",
            State::Stopped => "STOPPED",
            State::Fatal => "FATAL",
        }
    }
}

/// What happens when a worker ends that nobody has stopped. One that ends by plan (its time or its memory is over) is replaced always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It is started again; after too many failed starts it is FATAL.
    Unexpected,
    /// It is started again, however often that fails.
    Always,
    /// It stays as it is until start_pool.
    Never,
}

impl Restart {
    pub const WORDS: &str = "unexpected, always or never";

    pub fn from_word(word: &str) -> Option<Restart> {
        match word {
            "unexpected" => Some(Restart::Unexpected),
            "always" => Some(Restart::Always),
            "never" => Some(Restart::Never),
            _ => None,
        }
    }
}

/// Why a worker does not run, or what happened to it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    Nothing,
    /// max_worker_processes are in use.
    NoProcess,
    /// It ended before start_seconds were over: the server's log says why.
    EndedEarly,
    /// It was terminated, or has met an error that was not its job's.
    Ended,
    NoRole,
    NoLogin,
    Superuser,
    NotMember,
    NoConnect,
    /// jobq keeps no more workers than this.
    NoSeat,
    /// It runs, but cannot look for jobs.
    InTrouble,
}

impl Reason {
    /// For people; empty when there is nothing to say.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Nothing => "",
            Reason::NoProcess => "no background worker slot is free: raise max_worker_processes",
            Reason::EndedEarly => "it ended before start_seconds were over; the server's log says why",
            Reason::Ended => "it ended although nobody had stopped it; the server's log says why",
            Reason::NoRole => "its role does not exist",
            Reason::NoLogin => "its role may not log in",
            Reason::Superuser => "its role is a superuser, and jobq.allow_superuser_handlers is off",
            Reason::NotMember => "who created the pool is no member of its role any more",
            Reason::NoConnect => "its role may not connect to this database",
            Reason::NoSeat => "all places for pool workers are taken",
            Reason::InTrouble => "it cannot look for jobs; the server's log says why",
        }
    }

    /// As sql/queries/pools_wanted.sql numbers what is wrong with a role; 0: nothing.
    pub fn of_role(number: i32) -> Reason {
        match number {
            1 => Reason::NoRole,
            2 => Reason::NoLogin,
            3 => Reason::Superuser,
            4 => Reason::NotMember,
            5 => Reason::NoConnect,
            _ => Reason::Nothing,
        }
    }

    /// Nothing is wrong with the worker itself: it is tried for ever.
    fn is_want_of_room(self) -> bool {
        matches!(self, Reason::NoProcess | Reason::NoSeat)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub restart: Restart,
    pub start_micros: i64,
    pub start_retries: u32,
    pub stop_wait_micros: i64,
}

/// Is there a process?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// It was asked for and has not said anything yet.
    Coming,
    Alive,
    /// `in_a_job`: its job may have ended it.
    Ended {
        by_plan: bool,
        in_a_job: bool,
    },
}

/// What the supervisor sees. Times are microseconds of a clock that nobody sets.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub now: i64,
    pub process: Process,
    /// The pool is started, and has so many workers.
    pub wanted: bool,
    /// How often the pool was started and restarted.
    pub starts: i32,
    pub restarts: i32,
}

/// What the supervisor is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Nothing,
    Start,
    /// Ask it to stop after its job.
    Stop,
    /// Cancel its job, which goes back to its queue.
    Cancel,
    Terminate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urged {
    Asked,
    Cancelled,
    Terminated,
}

/// One worker of a pool, whether a process is there or not.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    pub state: State,
    pub reason: Reason,
    /// When it came into this state.
    pub since: i64,
    /// Starts that failed one after the other.
    failures: u32,
    /// Backoff: when to start again. Stopping: when to urge.
    until: i64,
    urged: Urged,
    starts: i32,
    restarts: i32,
}

impl Worker {
    /// One that is to be started.
    pub const NEW: Worker = Worker {
        state: State::Stopped,
        reason: Reason::Nothing,
        since: 0,
        failures: 0,
        until: 0,
        urged: Urged::Asked,
        starts: 0,
        restarts: 0,
    };

    /// Looks, and says what to do. `Start` is followed by `begin` or `cannot_start`.
    pub fn step(&mut self, seen: &Seen, policy: &Policy) -> Act {
        match (self.state, seen.process) {
            (State::Starting | State::Running, Process::Ended { by_plan, in_a_job }) => {
                self.ended(by_plan, in_a_job, seen, policy)
            }
            (State::Starting, Process::Coming) if seen.now.saturating_sub(self.since) >= NO_SHOW_MICROS => {
                self.fail(Reason::EndedEarly, seen.now, policy);
                Act::Nothing
            }
            (State::Starting | State::Running, _) if !seen.wanted || seen.restarts != self.restarts => {
                self.enter(State::Stopping, seen.now);
                self.urged = Urged::Asked;
                self.until = seen.now.saturating_add(policy.stop_wait_micros);
                Act::Stop
            }
            (State::Starting, Process::Alive) if seen.now.saturating_sub(self.since) >= policy.start_micros => {
                self.enter(State::Running, seen.now);
                (self.failures, self.reason) = (0, Reason::Nothing);
                Act::Nothing
            }
            (State::Starting | State::Running, _) => Act::Nothing,
            (State::Stopping, Process::Ended { .. }) => {
                self.enter(State::Stopped, seen.now);
                self.reason = Reason::Nothing;
                self.rest(seen)
            }
            (State::Stopping, Process::Coming) if seen.now.saturating_sub(self.since) >= NO_SHOW_MICROS => {
                self.enter(State::Stopped, seen.now);
                self.reason = Reason::Nothing;
                self.rest(seen)
            }
            (State::Stopping, _) if seen.now < self.until => Act::Nothing,
            (State::Stopping, _) => {
                self.until = seen.now.saturating_add(URGE_MICROS);
                let (urged, act) = match self.urged {
                    Urged::Asked => (Urged::Cancelled, Act::Cancel),
                    Urged::Cancelled | Urged::Terminated => (Urged::Terminated, Act::Terminate),
                };
                self.urged = urged;
                act
            }
            (State::Backoff | State::Stopped | State::Fatal, _) => self.rest(seen),
        }
    }

    /// There is no process. Is one to be started?
    fn rest(&mut self, seen: &Seen) -> Act {
        if !seen.wanted {
            if self.state != State::Stopped {
                self.enter(State::Stopped, seen.now);
            }
            (self.reason, self.failures) = (Reason::Nothing, 0);
            return Act::Nothing;
        }
        let is_asked_for = seen.starts != self.starts || seen.restarts != self.restarts;
        if is_asked_for {
            self.failures = 0;
        }
        let is_due = match self.state {
            State::Backoff => seen.now >= self.until,
            // One that has ended and is not to be restarted has a reason.
            State::Stopped => self.reason == Reason::Nothing,
            _ => false,
        };
        if is_due || is_asked_for { Act::Start } else { Act::Nothing }
    }

    /// A process was asked for.
    pub fn begin(&mut self, seen: &Seen) {
        self.enter(State::Starting, seen.now);
        (self.starts, self.restarts) = (seen.starts, seen.restarts);
    }

    /// No process can be had.
    pub fn cannot_start(&mut self, reason: Reason, seen: &Seen, policy: &Policy) {
        (self.starts, self.restarts) = (seen.starts, seen.restarts);
        self.fail(reason, seen.now, policy);
    }

    fn ended(&mut self, by_plan: bool, in_a_job: bool, seen: &Seen, policy: &Policy) -> Act {
        // One that has come as far as a job has started; the job is counted a crash, and is given up before long.
        let was_running = self.state == State::Running || in_a_job;
        if by_plan || (was_running && policy.restart != Restart::Never) {
            self.enter(State::Stopped, seen.now);
            self.reason = Reason::Nothing;
            return self.rest(seen);
        }
        if policy.restart == Restart::Never {
            self.enter(State::Stopped, seen.now);
            self.reason = if was_running { Reason::Ended } else { Reason::EndedEarly };
        } else {
            self.fail(Reason::EndedEarly, seen.now, policy);
        }
        Act::Nothing
    }

    fn fail(&mut self, reason: Reason, now: i64, policy: &Policy) {
        self.failures = self.failures.saturating_add(1);
        self.reason = reason;
        let is_given_up = self.failures > policy.start_retries && policy.restart != Restart::Always && !reason.is_want_of_room();
        self.enter(if is_given_up { State::Fatal } else { State::Backoff }, now);
        let pause = i64::from(self.failures).saturating_mul(SECOND_MICROS).min(BACKOFF_MAX_MICROS);
        self.until = now.saturating_add(pause);
    }

    fn enter(&mut self, state: State, now: i64) {
        self.state = state;
        self.since = now;
    }

    /// When the next look is due without news; None, or a time that is over: there will be news.
    pub fn due_at(&self, policy: &Policy) -> Option<i64> {
        match self.state {
            State::Starting => Some(self.since.saturating_add(policy.start_micros)),
            State::Backoff | State::Stopping => Some(self.until),
            State::Running | State::Stopped | State::Fatal => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        restart: Restart::Unexpected,
        start_micros: SECOND_MICROS,
        start_retries: 3,
        stop_wait_micros: 10 * SECOND_MICROS,
    };
    const ENDED: Process = Process::Ended { by_plan: false, in_a_job: false };
    const BY_PLAN: Process = Process::Ended { by_plan: true, in_a_job: false };

    fn seen(now: i64, process: Process) -> Seen {
        Seen { now, process, wanted: true, starts: 1, restarts: 0 }
    }

    fn started(now: i64) -> Worker {
        let mut worker = Worker::NEW;
        assert_eq!(worker.step(&seen(now, ENDED), &POLICY), Act::Start);
        worker.begin(&seen(now, ENDED));
        worker
    }

    fn running(policy: &Policy) -> Worker {
        let mut worker = started(0);
        assert_eq!(worker.step(&seen(SECOND_MICROS, Process::Alive), policy), Act::Nothing);
        assert_eq!(worker.state, State::Running);
        worker
    }

    #[test]
    fn it_runs_once_it_has_lived_for_start_seconds() {
        let mut worker = started(0);
        assert_eq!(worker.step(&seen(SECOND_MICROS - 1, Process::Alive), &POLICY), Act::Nothing);
        assert_eq!(worker.state, State::Starting);
        worker.step(&seen(SECOND_MICROS, Process::Alive), &POLICY);
        assert_eq!((worker.state, worker.due_at(&POLICY)), (State::Running, None));
    }

    #[test]
    fn failed_starts_are_repeated_after_growing_pauses_until_it_is_fatal() {
        let mut worker = started(0);
        let mut now = 0;
        for failures in 1..=3 {
            assert_eq!(worker.step(&seen(now, ENDED), &POLICY), Act::Nothing);
            assert_eq!((worker.state, worker.due_at(&POLICY)), (State::Backoff, Some(now + failures * SECOND_MICROS)));
            now += failures * SECOND_MICROS;
            assert_eq!(worker.step(&seen(now - 1, ENDED), &POLICY), Act::Nothing);
            assert_eq!(worker.step(&seen(now, ENDED), &POLICY), Act::Start);
            worker.begin(&seen(now, ENDED));
        }
        worker.step(&seen(now, ENDED), &POLICY);
        assert_eq!((worker.state, worker.reason, worker.due_at(&POLICY)), (State::Fatal, Reason::EndedEarly, None));
        assert_eq!(worker.step(&seen(now + 3_600 * SECOND_MICROS, ENDED), &POLICY), Act::Nothing);
        // start_pool
        assert_eq!(worker.step(&Seen { starts: 2, ..seen(now, ENDED) }, &POLICY), Act::Start);
    }

    #[test]
    fn one_that_was_given_up_has_all_its_retries_again_after_start_pool() {
        let policy = Policy { start_retries: 1, ..POLICY };
        let mut worker = started(0);
        worker.cannot_start(Reason::NoLogin, &seen(0, ENDED), &policy);
        worker.cannot_start(Reason::NoLogin, &seen(0, ENDED), &policy);
        assert_eq!(worker.state, State::Fatal);
        let again = Seen { starts: 2, ..seen(0, ENDED) };
        assert_eq!(worker.step(&again, &policy), Act::Start);
        worker.cannot_start(Reason::NoLogin, &again, &policy);
        assert_eq!(worker.state, State::Backoff);
    }

    #[test]
    fn want_of_room_is_no_fault_of_the_workers() {
        let mut worker = Worker::NEW;
        for _ in 0..100 {
            worker.cannot_start(Reason::NoProcess, &seen(0, ENDED), &POLICY);
        }
        assert_eq!((worker.state, worker.due_at(&POLICY)), (State::Backoff, Some(BACKOFF_MAX_MICROS)));
    }

    #[test]
    fn one_that_has_run_is_started_again_at_once() {
        for restart in [Restart::Unexpected, Restart::Always] {
            let policy = Policy { restart, ..POLICY };
            assert_eq!(running(&policy).step(&seen(9 * SECOND_MICROS, ENDED), &policy), Act::Start);
        }
    }

    #[test]
    fn restart_never_keeps_it_down_but_not_one_that_has_ended_by_plan() {
        let never = Policy { restart: Restart::Never, ..POLICY };
        let mut worker = running(&never);
        assert_eq!(worker.step(&seen(9 * SECOND_MICROS, ENDED), &never), Act::Nothing);
        assert_eq!((worker.state, worker.reason), (State::Stopped, Reason::Ended));
        assert_eq!(worker.step(&seen(99 * SECOND_MICROS, ENDED), &never), Act::Nothing);
        assert_eq!(worker.step(&Seen { starts: 2, ..seen(99 * SECOND_MICROS, ENDED) }, &never), Act::Start);
        assert_eq!(running(&never).step(&seen(9 * SECOND_MICROS, BY_PLAN), &never), Act::Start);
        let mut early = started(0);
        assert_eq!(early.step(&seen(1, ENDED), &never), Act::Nothing);
        assert_eq!((early.state, early.reason), (State::Stopped, Reason::EndedEarly));
    }

    #[test]
    fn one_that_ends_in_a_job_has_not_failed_to_start() {
        let mut worker = started(0);
        for now in 1..20 {
            let ended = Process::Ended { by_plan: false, in_a_job: true };
            assert_eq!(worker.step(&seen(now, ended), &POLICY), Act::Start);
            worker.begin(&seen(now, ENDED));
        }
    }

    #[test]
    fn restart_always_is_never_fatal() {
        let always = Policy { restart: Restart::Always, ..POLICY };
        let mut worker = started(0);
        for _ in 0..20 {
            worker.cannot_start(Reason::NoLogin, &seen(0, ENDED), &always);
        }
        assert_eq!(worker.state, State::Backoff);
    }

    #[test]
    fn a_stop_asks_then_cancels_then_terminates() {
        let mut worker = running(&POLICY);
        let stop = |now| Seen { wanted: false, ..seen(now, Process::Alive) };
        assert_eq!(worker.step(&stop(0), &POLICY), Act::Stop);
        assert_eq!(worker.step(&stop(10 * SECOND_MICROS - 1), &POLICY), Act::Nothing);
        assert_eq!(worker.step(&stop(10 * SECOND_MICROS), &POLICY), Act::Cancel);
        assert_eq!(worker.step(&stop(11 * SECOND_MICROS), &POLICY), Act::Nothing);
        assert_eq!(worker.step(&stop(15 * SECOND_MICROS), &POLICY), Act::Terminate);
        assert_eq!(worker.step(&stop(20 * SECOND_MICROS), &POLICY), Act::Terminate);
        assert_eq!(worker.step(&Seen { process: ENDED, ..stop(21 * SECOND_MICROS) }, &POLICY), Act::Nothing);
        assert_eq!((worker.state, worker.reason), (State::Stopped, Reason::Nothing));
        // The pool goes on, for another reason than start_pool.
        assert_eq!(worker.step(&seen(22 * SECOND_MICROS, ENDED), &POLICY), Act::Start);
    }

    #[test]
    fn a_restart_stops_it_and_starts_it_again() {
        let mut worker = running(&POLICY);
        let again = |process| Seen { restarts: 1, ..seen(2 * SECOND_MICROS, process) };
        assert_eq!(worker.step(&again(Process::Alive), &POLICY), Act::Stop);
        assert_eq!(worker.step(&again(BY_PLAN), &POLICY), Act::Start);
        worker.begin(&again(ENDED));
        assert_eq!(worker.step(&again(Process::Alive), &POLICY), Act::Nothing);
        assert_eq!(worker.state, State::Starting);
    }

    #[test]
    fn one_that_never_shows_up_has_failed() {
        let mut worker = started(0);
        assert_eq!(worker.step(&seen(NO_SHOW_MICROS - 1, Process::Coming), &POLICY), Act::Nothing);
        assert_eq!(worker.state, State::Starting);
        worker.step(&seen(NO_SHOW_MICROS, Process::Coming), &POLICY);
        assert_eq!((worker.state, worker.reason), (State::Backoff, Reason::EndedEarly));
    }
}
