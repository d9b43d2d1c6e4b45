//! The rules of the protocol, each of which can be taken away: then something must be found to be wrong (crate::scenes).
//!
//! A rule is obeyed either by this model, which calls the structures as the server does, or by the structures. The latter are never
//! changed here: `run` makes a copy of src/dispatch in which such a rule asks `off` (mutants.py), and builds the model with that.
//!
//! Not each rule is needed when all others are there. D10: a claim that takes the ready index finds the job without a slot of its own,
//! so its scene is without the index. W2: who looks once more when his time is over takes what he was woken for, so both are left out.

use std::cell::Cell;

/// Who obeys a rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Model,
    Structures,
    /// Nobody yet: a finding. Where the model can it helps out, so that the walks get past it; the rule's scene fails without help.
    Nobody,
}

use By::{Model, Nobody, Structures};

macro_rules! rules {
    ($($name:ident $by:ident $what:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rule { $($name),* }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$name),*];

            /// The rule as a sentence.
            pub fn what(self) -> &'static str {
                match self { $(Rule::$name => $what),* }
            }

            pub fn by(self) -> By {
                match self { $(Rule::$name => $by),* }
            }
        }
    };
}

rules! {
    D1 Structures "one refill of a window at a time, ended by who began it",
    D2 Structures "a refill's end raises the horizon no further than the smallest key evicted since it began",
    D2b Structures "a refill's end raises the horizon no further than a big transaction has let go",
    D3 Model "a refill begins before it takes its snapshot",
    D4 Model "a refill takes a snapshot of its own, not its transaction's",
    D5 Model "a claim looks at its candidate with a snapshot newer than the pop",
    D6 Model "whoever locks a ready job offers it when he rolls back",
    D8 Model "a refill that fails is given up",
    D9 Model "an offer is never suppressed because its job is in flight",
    D10 Structures "a window below its share takes a slot from the fullest one",
    D11 Model "a claim that rolls back offers its job",
    D12 Model "while a refill is under way an offer is kept whatever its key",
    D14 Model "a rollback offers the key of the row version that was locked, not the one that was popped",
    T1 Model "a refill reads the clock after it has begun",
    T2 Model "a claim looks at its candidate with a clock read after the pop",
    T3 Structures "a large step back of the clock empties the entry",
    T4 Structures "a due refill's end raises the horizon no further than the smallest key evicted since it began",
    T5 Model "while a due refill is under way an offer is kept whatever its key",
    K1 Structures "a transaction that lets go wakes",
    K2 Structures "an offer behind the horizon wakes who waits for its kind",
    K4 Nobody "jobs that somebody waits for, and that have fallen due unknown, are looked for whatever is known of the ready side",
    K5 Structures "a job ahead of its time that is given another priority is ready under that one",
    K6 Model "a claim reads the index with the queue's clock, which a small step back does not set back",
    K7 Model "the end of a prepared transaction forgets what is known, and wakes",
    W1 Model "join the line, then look",
    W2 Structures "who leaves because his time is over looks once more and passes the baton",
    W3 Structures "who leaves because he was cancelled passes the baton",
    W4 Structures "an event wakes the first whose filter matches, and who was woken in vain passes the baton",
    W5 Structures "who leaves with a job passes the baton",
    U1 Model "a rolled back subtransaction offers at once",
    U2 Model "a rollback to a savepoint leaves what was noted before it",
    B1 Model "a refill of many chunks moves the horizon with the last one only",
    B2 Structures "the place of a queue in which somebody waits is not given away",
}

thread_local! {
    static OFF: Cell<u64> = const { Cell::new(0) };
}

/// Has this rule been taken away?
pub fn off(rule: Rule) -> bool {
    OFF.get() >> rule as u32 & 1 == 1
}

/// Runs `body` with one rule more taken away, if there is one.
pub fn without<T>(rule: Option<Rule>, body: impl FnOnce() -> T) -> T {
    let before = OFF.get();
    OFF.set(rule.map_or(before, |rule| before | 1 << rule as u32));
    let outcome = body();
    OFF.set(before);
    outcome
}

/// Runs `body` with one rule in force again if the condition holds: for rules that share a line of the structures.
pub fn with<T>(rule: Rule, condition: bool, body: impl FnOnce() -> T) -> T {
    let before = OFF.get();
    OFF.set(if condition { before & !(1 << rule as u32) } else { before });
    let outcome = body();
    OFF.set(before);
    outcome
}
