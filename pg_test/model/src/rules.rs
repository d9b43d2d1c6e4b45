//! The rules of the protocol, each of which can be taken away: then something must be found to be wrong (crate::scenes).
//!
//! A rule is obeyed either by this model, which calls the structures as the server does, or by the structures. The latter are never
//! changed here: `run` makes a copy of src/dispatch in which such a rule asks `off` (mutants.py), and builds the model with that.

use std::cell::Cell;

macro_rules! rules {
    ($($name:ident $inside:literal $what:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rule { $($name),* }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$name),*];

            /// The rule as a sentence.
            pub fn what(self) -> &'static str {
                match self { $(Rule::$name => $what),* }
            }

            /// Is it obeyed by src/dispatch itself?
            pub fn is_inside(self) -> bool {
                match self { $(Rule::$name => $inside),* }
            }
        }
    };
}

rules! {
    D1 true "one refill of a window at a time, ended by who began it",
    D2 true "a refill's end raises the horizon no further than the smallest key evicted since it began",
    D2b true "a refill's end raises the horizon no further than a big transaction has let go",
    D3 false "a refill begins before it takes its snapshot",
    D4 false "a refill takes a snapshot of its own, not its transaction's",
    D5 false "a claim looks at its candidate with a snapshot newer than the pop",
    D6 false "whoever locks a ready job offers it when he rolls back",
    D8 false "a refill that fails is given up",
    D9 false "an offer is never suppressed because its job is in flight",
    D10 true "a window below its share takes a slot from the fullest one",
    D11 false "a claim that rolls back offers its job",
    D12 false "while a refill is under way an offer is kept whatever its key",
    D14 false "a rollback offers the key of the row version that was locked, not the one that was popped",
    T1 false "a refill reads the clock after it has begun",
    T2 false "a claim looks at its candidate with a clock read after the pop",
    T3 true "a large step back of the clock empties the entry",
    T4 true "a due refill's end raises the horizon no further than the smallest key evicted since it began",
    T5 false "while a due refill is under way an offer is kept whatever its key",
    K1 true "a transaction that lets go wakes",
    K2 true "an offer behind the horizon wakes who waits for its kind",
    K3 false "a due refill whose beginning lets go of the ready side wakes",
    K4 false "jobs that somebody waits for, and that have fallen due unknown, are looked for whatever is known of the ready side",
    W1 false "join the line, then look",
    W2 true "who leaves because his time is over passes the baton",
    W3 true "who leaves because he was cancelled passes the baton",
    W4 true "an event wakes the first whose filter matches",
    W5 true "who leaves with a job passes the baton",
    U1 false "a rolled back subtransaction offers at once",
    U2 false "a rollback to a savepoint leaves what was noted before it",
    B1 false "a refill of many chunks moves the horizon with the last one only",
    B2 true "the place of a queue in which somebody waits is not given away",
    P1 false "a sweep begins by ending the refills under way",
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
