//! Small worlds. For each rule one in which its absence shows; and larger ones in which all rules hold.

use crate::dispatch::stripe::Side;
use crate::heap::{State, Version};
use crate::rules::Rule;
use crate::world::{Budget, Ends, Op, SECOND, Setup, World};

pub fn job(id: u32, queue: u8, priority: i32, ahead: i64, kind: u32) -> Version {
    Version { state: State::Absent, id, queue, priority, run_at: ahead * SECOND, kind, scheduled: ahead > 0 }
}

pub const EITHER: Op = Op::End(Ends { commit: true, abort: true, prepare: false });
pub const COMMIT: Op = Op::End(Ends { commit: true, abort: false, prepare: false });
pub const PREPARE: Op = Op::End(Ends { commit: false, abort: false, prepare: true });
const CLAIM: Op = Op::Claim { queue: 0, kinds: 0 };
const READY: Op = Op::Refill { queue: 0, side: Side::Ready };
const DUE: Op = Op::Refill { queue: 0, side: Side::Due };
const A: u8 = 1 << 1;
const B: u8 = 1 << 2;

fn wait(kinds: u8) -> Vec<Op> {
    vec![Op::Wait { queue: 0, kinds }, COMMIT]
}

fn setup(jobs: &[Version]) -> Setup {
    Setup {
        places: 1,
        slots: 2,
        waiters: 3,
        notes: 8,
        refill: 2,
        chunk: 2,
        low_water: 1,
        jobs: jobs.to_vec(),
        refills: 2,
        index: true,
        old_snapshots: false,
    }
}

/// Which jobs are there at the start, and what is known of the queue.
struct Start<'s> {
    ready: &'s [u8],
    known: &'s [Op],
}

/// What is unknown on one side is found by a refill of the other side, too, unless that side is known.
const READY_UNKNOWN: Start<'static> = Start { ready: &[], known: &[DUE] };
const ALL_UNKNOWN: Start<'static> = Start { ready: &[], known: &[] };
const BOTH: &[Op] = &[DUE, READY];
const ALL_KNOWN: Start<'static> = Start { ready: &[], known: BOTH };

fn world(start: &Start<'_>, setup: Setup, budget: Budget, scripts: &[Vec<Op>]) -> World {
    let mut world = World::new(setup, Budget::default(), &[]);
    let who = world.join_in();
    for row in start.ready {
        world.do_alone(who, &[Op::Enqueue(*row), COMMIT]);
    }
    world.do_alone(who, start.known);
    world.sessions = World::new((*world.setup).clone(), budget, scripts).sessions;
    world.budget = budget;
    world
}

fn enqueue(row: u8) -> Vec<Op> {
    vec![Op::Enqueue(row), COMMIT]
}

/// A world in which it shows that this rule is missing.
pub fn scene(rule: Rule) -> World {
    let (a, b) = (job(0, 0, 1, 0, 1), job(1, 0, 2, 0, 2));
    let (soon, later) = (job(0, 0, 1, 5, 1), job(1, 0, 2, 6, 1));
    let none = Budget::default();
    let one_slot = |jobs: &[Version]| Setup { slots: 1, ..setup(jobs) };
    let a_known = Start { ready: &[0], known: BOTH };
    let ab_known = Start { ready: &[0, 1], known: BOTH };
    match rule {
        Rule::D1 => {
            let start = Start { ready: &[0], known: &[DUE] };
            let setup = Setup { refill: 1, ..setup(&[a, b]) };
            world(&start, setup, none, &[enqueue(1), vec![READY], vec![READY]])
        }
        Rule::D2 => world(&READY_UNKNOWN, one_slot(&[a, b]), none, &[enqueue(0), enqueue(1), vec![READY]]),
        Rule::T4 => world(&ALL_UNKNOWN, one_slot(&[soon, later]), none, &[enqueue(0), enqueue(1), vec![DUE, READY]]),
        Rule::D2b => world(&READY_UNKNOWN, Setup { notes: 0, ..setup(&[a]) }, none, &[enqueue(0), vec![READY]]),
        Rule::D3 | Rule::D12 => world(&READY_UNKNOWN, setup(&[a]), none, &[enqueue(0), vec![READY]]),
        Rule::T5 => world(&ALL_UNKNOWN, setup(&[soon]), none, &[enqueue(0), vec![DUE, READY]]),
        Rule::D4 | Rule::D5 => {
            let start = if rule == Rule::D4 { READY_UNKNOWN } else { ALL_KNOWN };
            let setup = Setup { old_snapshots: true, ..setup(&[a]) };
            world(&start, setup, none, &[enqueue(0), vec![CLAIM, EITHER]])
        }
        Rule::D6 => world(&a_known, setup(&[a]), none, &[vec![Op::Cancel(0, true), EITHER], vec![CLAIM, EITHER]]),
        Rule::D8 => {
            let start = Start { ready: &[0], known: &[DUE] };
            world(&start, setup(&[a]), Budget { fails: 1, ..none }, &[vec![READY], vec![CLAIM, EITHER]])
        }
        Rule::D9 => {
            let owner = vec![CLAIM, COMMIT, Op::Release, EITHER];
            world(&a_known, setup(&[a]), none, &[owner, vec![CLAIM, EITHER], vec![Op::Sweep]])
        }
        Rule::D10 => {
            let setup = Setup { places: 2, index: false, ..one_slot(&[a, job(1, 1, 2, 0, 1)]) };
            world(&a_known, setup, none, &[enqueue(1), vec![Op::Claim { queue: 1, kinds: 0 }, EITHER]])
        }
        Rule::D11 => world(&a_known, setup(&[a]), none, &[vec![CLAIM, EITHER]]),
        Rule::D14 => {
            let mut world = world(&a_known, setup(&[a]), none, &[vec![CLAIM, EITHER], vec![CLAIM, EITHER]]);
            // What a sweep had read before somebody gave the job back under another key, and offered afterwards.
            let now = world.now;
            let stale = Version { priority: 4, run_at: now, ..a }.candidate();
            world.locked(0, |stripe, at| stripe.offer(at, &stale, now));
            world
        }
        Rule::T1 => {
            let start = Start { ready: &[0], known: &[DUE] };
            world(&start, setup(&[soon]), Budget { ticks: 1, ..none }, &[vec![READY], vec![CLAIM, EITHER]])
        }
        Rule::T2 => world(&a_known, setup(&[soon]), Budget { ticks: 1, ..none }, &[vec![CLAIM, EITHER]]),
        Rule::T3 => {
            let start = Start { ready: &[0], known: &[DUE] };
            let budget = Budget { ticks: 1, steps_back: 1, ..none };
            world(&start, setup(&[soon]), budget, &[vec![READY], vec![CLAIM, EITHER]])
        }
        Rule::K1 => world(&ALL_KNOWN, Setup { notes: 0, ..setup(&[a]) }, none, &[enqueue(0), wait(0)]),
        Rule::K4 => {
            let start = Start { ready: &[], known: &[READY, DUE] };
            let (setup, budget) = (Setup { notes: 0, refills: 0, ..setup(&[soon]) }, Budget { ticks: 1, ..none });
            world(&start, setup, budget, &[enqueue(0), wait(0)])
        }
        Rule::K5 => {
            // When its time comes the old priority is behind the horizon, the new one before it.
            let jobs = [job(0, 0, 5, 5, 1), job(1, 0, 3, 0, 1), job(2, 0, 4, 0, 1)];
            let start = Start { ready: &[0, 1, 2], known: BOTH };
            let others = vec![Op::Claim { queue: 0, kinds: B }, EITHER];
            world(&start, setup(&jobs), Budget { ticks: 1, ..none }, &[vec![Op::Reschedule(0), EITHER], others])
        }
        Rule::K6 => {
            let start = Start { ready: &[0, 1], known: BOTH };
            let jobs = [job(0, 0, 1, 0, 1), job(1, 0, 5, 10, 2)];
            let budget = Budget { ticks: 2, small_steps_back: 1, ..none };
            let other = vec![Op::Claim { queue: 0, kinds: 1 << 3 }, COMMIT];
            world(&start, one_slot(&jobs), budget, &[other, wait(B)])
        }
        Rule::K7 => {
            let start = Start { ready: &[], known: &[READY, DUE] };
            let prepared = vec![Op::Enqueue(0), PREPARE];
            world(&start, Setup { refills: 0, ..setup(&[a]) }, none, &[prepared, wait(0), vec![Op::Sweep]])
        }
        Rule::K2 => {
            let start = Start { ready: &[0, 1], known: BOTH };
            let jobs = [a, job(1, 0, 2, 0, 1), job(2, 0, 5, 0, 2)];
            world(&start, one_slot(&jobs), none, &[enqueue(2), wait(B)])
        }
        Rule::W1 => world(&ALL_KNOWN, setup(&[a]), none, &[enqueue(0), wait(0)]),
        Rule::W2 => world(&ALL_KNOWN, setup(&[a]), Budget { time_outs: 1, ..none }, &[enqueue(0), wait(A), wait(A)]),
        Rule::W3 => world(&ALL_KNOWN, setup(&[a]), Budget { cancels: 1, ..none }, &[enqueue(0), wait(A), wait(A)]),
        Rule::W4 => world(&ALL_KNOWN, setup(&[a]), none, &[enqueue(0), wait(B), wait(A)]),
        Rule::W5 => {
            let jobs = [job(0, 0, 2, 0, 1), job(1, 0, 1, 0, 2)];
            world(&ALL_KNOWN, setup(&jobs), none, &[enqueue(0), enqueue(1), wait(A | B), wait(A)])
        }
        Rule::U1 => world(&a_known, setup(&[a]), none, &[vec![Op::Savepoint, CLAIM, Op::RollbackTo, EITHER]]),
        Rule::U2 => {
            let script = vec![CLAIM, Op::Savepoint, Op::Cancel(1, true), Op::RollbackTo, EITHER];
            world(&ab_known, setup(&[a, b]), none, &[script, vec![CLAIM, EITHER]])
        }
        Rule::B1 => {
            let start = Start { ready: &[0, 1], known: &[DUE] };
            world(&start, Setup { chunk: 1, ..setup(&[a, b]) }, none, &[vec![READY], vec![CLAIM, EITHER]])
        }
        Rule::B2 => {
            let jobs = [a, job(1, 1, 1, 0, 1)];
            let other = vec![Op::Claim { queue: 1, kinds: 0 }, EITHER];
            world(&ALL_KNOWN, setup(&jobs), none, &[enqueue(0), other, wait(0)])
        }
    }
}

/// Worlds in which many things meet, none of which may go wrong.
pub fn crowds() -> Vec<(&'static str, World)> {
    let jobs = [job(0, 0, 1, 0, 1), job(1, 0, 2, 0, 2), job(2, 0, 3, 0, 1)];
    let scheduled = [job(0, 0, 1, 5, 1), job(1, 0, 2, 6, 1), job(2, 0, 3, 0, 2)];
    let none = Budget::default();
    let one_slot = |jobs: &[Version]| Setup { slots: 1, refill: 1, ..setup(jobs) };
    let a_ready = Start { ready: &[0], known: &[] };
    let ac_ready = Start { ready: &[0, 2], known: &[] };
    let either = |row: u8| vec![Op::Enqueue(row), EITHER];
    let fails = Budget { fails: 1, ..none };
    vec![
        (
            "enqueuers, a refill that may fail, a claimer that gives back",
            world(&a_ready, one_slot(&jobs), fails, &[either(1), vec![READY], vec![CLAIM, EITHER, Op::Fail, EITHER]]),
        ),
        (
            "two claimers, a cancel, an enqueuer, one slot",
            world(
                &ac_ready,
                one_slot(&jobs),
                none,
                &[either(1), vec![CLAIM, EITHER], vec![CLAIM, EITHER], vec![Op::Cancel(2, true), EITHER]],
            ),
        ),
        (
            "a big transaction, a sweep, a claimer that releases",
            world(
                &a_ready,
                Setup { notes: 1, ..one_slot(&jobs) },
                none,
                &[vec![Op::Enqueue(1), Op::Enqueue(2), EITHER], vec![Op::Sweep], vec![CLAIM, EITHER, Op::Release, EITHER]],
            ),
        ),
        (
            "a refill inside a transaction that takes away what it has locked, savepoints",
            world(
                &ac_ready,
                one_slot(&jobs),
                fails,
                &[vec![Op::Savepoint, Op::Cancel(0, true), CLAIM, Op::RollbackTo, CLAIM, EITHER], vec![CLAIM, EITHER]],
            ),
        ),
        (
            "prepared transactions, sweeps, refills",
            world(
                &a_ready,
                one_slot(&jobs),
                none,
                &[vec![Op::Enqueue(1), PREPARE], vec![CLAIM, PREPARE], vec![READY], vec![Op::Sweep]],
            ),
        ),
        (
            "a crash",
            world(&a_ready, one_slot(&jobs), Budget { crashes: 1, ..none }, &[either(1), vec![READY], vec![CLAIM, EITHER]]),
        ),
        (
            "due times, two claimers, refills of both sides",
            world(
                &Start { ready: &[2], known: &[] },
                one_slot(&scheduled),
                Budget { ticks: 1, ..none },
                &[enqueue(0), vec![CLAIM, EITHER], vec![DUE], vec![READY]],
            ),
        ),
        (
            "the clock steps back",
            world(
                &Start { ready: &[0, 2], known: BOTH },
                one_slot(&scheduled),
                Budget { ticks: 1, steps_back: 1, small_steps_back: 1, ..none },
                &[enqueue(1), vec![CLAIM, EITHER], vec![READY]],
            ),
        ),
        (
            "two queues on one slot",
            world(
                &a_ready,
                Setup { places: 2, ..one_slot(&[jobs[0], job(1, 1, 2, 0, 1), job(2, 1, 1, 0, 1)]) },
                none,
                &[enqueue(1), either(2), vec![CLAIM, EITHER], vec![Op::Claim { queue: 1, kinds: 0 }, EITHER]],
            ),
        ),
        (
            "two queues on one place",
            world(
                &a_ready,
                one_slot(&[jobs[0], job(1, 1, 2, 0, 1)]),
                none,
                &[enqueue(1), vec![CLAIM, EITHER], vec![Op::Claim { queue: 1, kinds: 0 }, EITHER]],
            ),
        ),
        (
            "waiters of several kinds, a thief",
            world(
                &ALL_KNOWN,
                setup(&jobs),
                Budget { time_outs: 1, cancels: 1, ..none },
                &[enqueue(0), enqueue(1), wait(A | B), wait(A), vec![CLAIM, EITHER]],
            ),
        ),
        (
            "waiters, jobs that fall due, the maintainer",
            world(&ALL_KNOWN, setup(&scheduled), Budget { ticks: 1, ..none }, &[enqueue(0), enqueue(1), wait(0), wait(0)]),
        ),
        (
            "waiters, jobs that fall due, one slot",
            world(&ALL_KNOWN, one_slot(&scheduled), Budget { ticks: 1, ..none }, &[enqueue(0), enqueue(1), wait(0), wait(A)]),
        ),
        (
            "waiters, jobs that fall due, one slot, a thief",
            world(
                &Start { ready: &[0, 1], known: BOTH },
                one_slot(&scheduled),
                Budget { ticks: 1, ..none },
                &[wait(0), vec![CLAIM, EITHER]],
            ),
        ),
        (
            "waiters of two queues, evictions",
            world(
                &ALL_KNOWN,
                Setup { places: 2, ..one_slot(&[jobs[0], jobs[1], job(2, 1, 1, 0, 1)]) },
                none,
                &[enqueue(0), enqueue(1), enqueue(2), wait(0), vec![Op::Claim { queue: 1, kinds: 0 }, EITHER]],
            ),
        ),
    ]
}
