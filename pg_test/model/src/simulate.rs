//! Long random walks through larger worlds.

use crate::dispatch::stripe::Side;
use crate::scenes::job;
use crate::turn::Choice;
use crate::world::{Budget, Ends, Op, SECOND, Session, Setup, World};

/// Numbers that look random and are the same for the same seed (splitmix64: Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One out of `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

pub struct Walk {
    pub steps: u64,
    pub handed_out: u64,
    pub wrong: Option<String>,
    /// What happened, if it was asked for.
    pub log: Vec<String>,
}

/// Steps at most before all jobs are handed out and memory must be empty.
const STEPS: usize = 800;

fn setup(random: &mut Random) -> Setup {
    let queues = 1 + random.below(3);
    let rows = 6 + random.below(4) as u32;
    let jobs = (0..rows).map(|id| {
        let ahead = if random.once_in(3) { 1 + random.below(12) as i64 } else { 0 };
        job(id, random.below(queues) as u8, random.below(3) as i32, ahead, 1 + random.below(3) as u32)
    });
    Setup {
        jobs: jobs.collect(),
        places: (queues - usize::from(random.once_in(4))).max(1),
        slots: 1 + random.below(5),
        waiters: 1 + random.below(4),
        notes: if random.once_in(3) { random.below(3) } else { 8 },
        refill: 1 + random.below(3),
        chunk: 1 + random.below(2),
        low_water: 1 + random.below(2),
        refills: 1 + random.below(3) as u8,
        index: true,
        old_snapshots: random.once_in(2),
    }
}

fn end(random: &mut Random) -> Op {
    match random.below(8) {
        0 => Op::End(Ends { commit: true, abort: false, prepare: true }),
        1 | 2 => Op::End(Ends { commit: false, abort: true, prepare: false }),
        _ => Op::End(Ends { commit: true, abort: false, prepare: false }),
    }
}

/// What a session does next: a transaction, or a duty of the maintainer.
fn script(random: &mut Random, world: &World, who: usize) -> Vec<Op> {
    let (row, queue) = (random.below(world.rows.len()) as u8, random.below(world.queues().len()));
    let queue = world.queues()[queue];
    let kinds = if random.once_in(3) { 2 << random.below(3) } else { 0 };
    let claim = Op::Claim { queue, kinds };
    // Who has a job finishes it soon.
    let what = if !world.sessions[who].held.is_empty() && random.once_in(2) { 11 + random.below(2) } else { random.below(25) };
    let mut ops = match what {
        0..=4 => vec![Op::Enqueue(row)],
        5 => (0..world.rows.len() as u8).filter(|row| row % 2 == 0).map(Op::Enqueue).collect(),
        6..=9 => vec![claim.clone()],
        10 => vec![Op::Cancel(row, random.once_in(2))],
        11 => vec![Op::Complete],
        12 => vec![[Op::Release, Op::Fail, Op::Hurry, Op::Retry(5 * SECOND)][random.below(4)].clone()],
        13 => (0..world.rows.len() as u8).map(Op::Rescue).take(1 + row as usize).collect(),
        14 => return vec![Op::Refill { queue, side: if random.once_in(2) { Side::Due } else { Side::Ready } }],
        15 if world.sessions.iter().all(|session| session.sweep.is_none() && !session.script.contains(&Op::Sweep)) => {
            return vec![Op::Sweep];
        }
        16 => return vec![Op::Tick],
        17 | 18 => vec![Op::Wait { queue, kinds }],
        19..=22 => vec![Op::Enqueue(row), Op::Enqueue((row + 1) % world.rows.len() as u8)],
        23 => vec![claim.clone()],
        _ => vec![Op::ForgetQueue(queue)].into_iter().filter(|_| random.once_in(4)).collect(),
    };
    if !matches!(ops.first(), Some(Op::Wait { .. }) | None) {
        if random.once_in(3) {
            ops.push(claim.clone());
        }
        if random.once_in(4) {
            ops.insert(0, Op::Savepoint);
            ops.push(if random.once_in(2) { Op::Cancel(row, true) } else { claim });
            ops.push(Op::RollbackTo);
        }
    }
    ops.push(end(random));
    ops
}

fn choose(random: &mut Random, world: &World) -> Option<Choice> {
    let mut choices = world.choices();
    let rare = |choice: &Choice| match choice {
        Choice::Go(_) | Choice::Commit(_) | Choice::Abort(_) | Choice::Prepare(_) => 1,
        Choice::Fail(_) | Choice::Tick | Choice::Finish(..) | Choice::TimeOut(_) => 12,
        Choice::Cancel(_) | Choice::SmallStepBack => 30,
        Choice::StepBack => 60,
        Choice::Crash => 200,
    };
    choices.retain(|choice| random.once_in(rare(choice)));
    let at = random.below(choices.len());
    choices.get(at).copied()
}

/// One world of this seed, to its end. `tells`: with what happened.
pub fn walk(seed: u64, tells: bool) -> Walk {
    let mut random = Random(seed);
    let setup = setup(&mut random);
    let budget = Budget {
        ticks: u8::MAX,
        steps_back: u8::MAX,
        small_steps_back: u8::MAX,
        crashes: u8::MAX,
        fails: u8::MAX,
        time_outs: u8::MAX,
        cancels: u8::MAX,
    };
    let (sessions, most) = (3 + random.below(4), 50 + random.below(STEPS) as u64);
    let mut world = World::new(setup, budget, &[]);
    world.sessions = vec![Session::default(); sessions];
    world.log = tells.then(Vec::new);
    let mut steps = 0;
    let mut wrong = None;
    while steps < most && wrong.is_none() {
        let who = random.below(sessions);
        let session = &world.sessions[who];
        if session.script.is_empty() && session.waiting.is_none() && session.sweep.is_none() {
            let script = script(&mut random, &world, who);
            world.sessions[who].script = script.into_iter().rev().collect();
        }
        if let Some(choice) = choose(&mut random, &world) {
            world.step(choice);
            world.budget = budget;
            steps += 1;
            wrong = world.violated();
        }
    }
    let mut log = world.log.clone().unwrap_or_default();
    if wrong.is_none() {
        world.wind_up();
        wrong = world.wrong.clone().map(|wrong| format!("{wrong} (after the walk)"));
        log = world.log.clone().unwrap_or(log);
    }
    Walk { steps, handed_out: world.handed_out, wrong, log }
}
