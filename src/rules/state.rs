//! The state machine: what may become of a job. The CHECK constraints of `jobq._job` restate it.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [State; 5] = [State::Pending, State::Running, State::Completed, State::Failed, State::Cancelled];

    /// The word users see.
    pub fn word(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    pub fn from_word(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.word() == word)
    }

    /// The letter the tables keep.
    pub fn from_letter(letter: u8) -> Option<State> {
        match letter {
            b'p' => Some(State::Pending),
            b'r' => Some(State::Running),
            b'c' => Some(State::Completed),
            b'f' => Some(State::Failed),
            b'x' => Some(State::Cancelled),
            _ => None,
        }
    }

    pub fn is_final(self) -> bool {
        !matches!(self, State::Pending | State::Running)
    }

    /// Legal moves; nothing else ever happens to a job.
    pub fn may_become(self, next: State) -> bool {
        use State::*;
        matches!(
            (self, next),
            (Pending, Running | Cancelled) | (Running, Completed | Pending | Failed | Cancelled) | (Failed | Cancelled, Pending)
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What `fail` (or a timeout) makes of a running job.
pub fn after_failure(attempt: i32, max_attempts: i32, retry: bool, cancel_requested: bool) -> State {
    if cancel_requested {
        State::Cancelled
    } else if retry && attempt < max_attempts {
        State::Pending
    } else {
        State::Failed
    }
}

/// Why a rescued job does not go back to pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescue {
    Again,
    Cancelled,
    AttemptsSpent,
    Poison,
}

/// What a rescue makes of a running job whose worker was lost. `crashes` counts this one.
pub fn after_crash(attempt: i32, max_attempts: i32, crashes: i32, max_crashes: i32, cancel_requested: bool) -> Rescue {
    if cancel_requested {
        Rescue::Cancelled
    } else if crashes >= max_crashes {
        Rescue::Poison
    } else if attempt >= max_attempts {
        Rescue::AttemptsSpent
    } else {
        Rescue::Again
    }
}
