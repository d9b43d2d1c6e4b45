//! Queues in which somebody waits, against lists: who is woken by what, and that nobody sleeps while there is a job for him.

use super::lists::{Queue, Standing, WAKES};
use crate::dispatch::stripe::{Counts, Entry, Found, QueueKey, Search, Side, Stripe};
use crate::dispatch::tree::{Free, Slot};
use crate::dispatch::waiters::{Places, Waiter, Wakes};
use crate::dispatch::{Candidate, Key};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

const SECOND: i64 = 1_000_000;
/// Enough for all jobs: who gives way when slots run out is shown elsewhere.
const SLOTS: usize = 2_048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// He has taken up his place.
    Looking,
    /// He has a job.
    Found,
    /// He has found nothing.
    Asleep,
    /// He has found nothing, and may not sleep until he is woken: he looks by himself.
    Napping,
}

/// One who waits, in one line or several.
#[derive(Debug, Clone)]
pub struct Session {
    owner: u64,
    kinds: Vec<u32>,
    /// Queues, and his number in their lines.
    standings: Vec<(i32, u32)>,
    stage: Stage,
}

impl Session {
    fn wants(&self, kind: u32) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// The memory of one stripe.
struct Memory {
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    free: Free,
    counts: Counts,
    waiters: Vec<Waiter>,
    places: Places,
}

impl Memory {
    fn new(queues: usize, waiters: usize) -> Memory {
        let (entries, slots, waiters) = (vec![Entry::EMPTY; queues], vec![Slot::EMPTY; SLOTS], vec![Waiter::EMPTY; waiters]);
        Memory { entries, slots, free: Free::default(), counts: Counts::default(), waiters, places: Places::default() }
    }

    fn stripe<'m>(&'m mut self, wakes: &'m mut Wakes) -> Stripe<'m> {
        let Memory { entries, slots, free, counts, waiters, places } = self;
        Stripe { entries, slots, free, counts, waiters, places, wakes }
    }
}

fn key(queue: i32) -> QueueKey {
    QueueKey { database: 1, installation: 2, queue }
}

fn key_on(side: Side, job: &Candidate) -> Key {
    match side {
        Side::Ready => job.ready_key(),
        Side::Due => job.due_key(),
    }
}

/// What a step brings about, or why it is wrong.
pub type Checked<T = ()> = Result<T, TestCaseError>;

/// The structures, the lists, and around them the table of jobs and those who wait.
pub struct World {
    memory: Memory,
    queues: BTreeMap<i32, Queue>,
    looks: u64,
    pub now: i64,
    next_id: u128,
    next_owner: u64,
    /// Jobs that anybody can have once they are due, and their queues.
    jobs: BTreeMap<u128, (i32, Candidate)>,
    pub sessions: Vec<Session>,
}

impl World {
    fn new(queues: usize, waiters: usize) -> World {
        let memory = Memory::new(queues, waiters);
        let (queues, jobs, sessions) = (BTreeMap::new(), BTreeMap::new(), vec![]);
        World { memory, queues, looks: 0, now: 100 * SECOND, next_id: 1, next_owner: 1, jobs, sessions }
    }

    /// Three queues of which all is known.
    pub fn all_known(waiters: usize) -> Checked<World> {
        let mut world = World::new(3, waiters);
        for queue in 1..=3 {
            world.entry(queue)?;
            world.refill(queue, Side::Due, SLOTS)?;
            world.refill(queue, Side::Ready, SLOTS)?;
        }
        Ok(world)
    }

    /// Does the same to the stripe, if it knows the queue, and to the lists: the outcome and who is woken must be the same.
    fn both<T: PartialEq + std::fmt::Debug>(
        &mut self,
        queue: i32,
        real: impl FnOnce(&mut Stripe<'_>, usize) -> T,
        naive: impl FnOnce(&mut Queue, &mut Vec<u64>) -> T,
    ) -> Checked<Option<T>> {
        let (mut wakes, mut expected_wakes) = (Wakes::none(), vec![]);
        let mut stripe = self.memory.stripe(&mut wakes);
        let outcome = stripe.find(&key(queue)).map(|at| real(&mut stripe, at));
        let expected = self.queues.get_mut(&queue).map(|queue| naive(queue, &mut expected_wakes));
        prop_assert_eq!(&outcome, &expected);
        prop_assert_eq!(wakes.owners(), expected_wakes);
        Ok(outcome)
    }

    /// Makes a place for the queue: none that somebody waits for gives way, and of the others the one looked at the longest ago.
    fn entry(&mut self, queue: i32) -> Checked<bool> {
        let mut wakes = Wakes::none();
        let mut stripe = self.memory.stripe(&mut wakes);
        let has_place = stripe.entry(&key(queue)).is_some();
        let mut known: Vec<i32> = stripe.queues().map(|(_, key)| key.queue).collect();
        known.sort_unstable();
        if !self.queues.contains_key(&queue) && self.queues.len() == self.memory.entries.len() {
            let idle = self.queues.iter().filter(|(_, queue)| queue.line.is_empty()).min_by_key(|(_, queue)| queue.looked_at);
            if let Some(idle) = idle.map(|(queue, _)| *queue) {
                self.queues.remove(&idle);
            }
        }
        if self.queues.contains_key(&queue) || self.queues.len() < self.memory.entries.len() {
            self.looks += 1;
            self.queues.entry(queue).or_insert_with(Queue::unknown).looked_at = self.looks;
        }
        prop_assert_eq!(known, self.queues.keys().copied().collect::<Vec<_>>());
        prop_assert_eq!(has_place, self.queues.contains_key(&queue));
        prop_assert_eq!(wakes.owners(), [0u64; 0]);
        Ok(has_place)
    }

    /// He joins these lines, or none if there is no place in one of them.
    pub fn join(&mut self, queues: &[i32], kinds: &[u32]) -> Checked {
        let owner = self.next_owner;
        self.next_owner += 1;
        let mut session = Session { owner, kinds: kinds.to_vec(), standings: vec![], stage: Stage::Looking };
        for queue in queues {
            let taken: Vec<u32> = self.queues.values().flat_map(|queue| &queue.line).map(|standing| standing.n).collect();
            let is_free = taken.len() < self.memory.waiters.len();
            let mut place = None;
            if self.entry(*queue)? {
                let join = |stripe: &mut Stripe<'_>, at: usize| {
                    place = stripe.join(at, owner, kinds);
                    place.is_some()
                };
                self.both(*queue, join, |_, _| is_free)?;
            }
            let (Some(n), Some(known)) = (place, self.queues.get_mut(queue)) else {
                return self.leave(&session);
            };
            prop_assert!(n as usize <= self.memory.waiters.len() && !taken.contains(&n), "not his place: {n}");
            known.line.push(Standing { n, owner, kinds: kinds.to_vec(), woken: false, owes: false });
            session.standings.push((*queue, n));
        }
        self.sessions.push(session);
        Ok(())
    }

    fn leave(&mut self, session: &Session) -> Checked {
        for (queue, n) in session.standings.iter().copied() {
            let owner = session.owner;
            self.both(queue, |stripe, at| stripe.leave(at, n, owner), |queue, wakes| queue.leave(owner, wakes))?;
        }
        Ok(())
    }

    pub fn dies(&mut self, who: usize) -> Checked {
        let session = self.sessions.remove(who);
        self.leave(&session)
    }

    /// He does what comes next.
    pub fn goes_on(&mut self, who: usize) -> Checked {
        let Session { owner, standings, kinds, stage } = self.sessions[who].clone();
        match stage {
            Stage::Found => return self.dies(who),
            Stage::Asleep | Stage::Napping => {
                for (queue, n) in standings {
                    let rejoined =
                        self.both(queue, |stripe, at| stripe.rejoin(at, n, owner), |queue, wakes| queue.rejoin(n, owner, wakes))?;
                    if rejoined != Some(true) {
                        return self.dies(who);
                    }
                }
                self.sessions[who].stage = Stage::Looking;
            }
            Stage::Looking => {
                let (mut found, mut may_sleep) = (false, true);
                for (queue, _) in &standings {
                    found = found || self.claim(*queue, &kinds)?;
                }
                for (queue, n) in &standings {
                    let now = self.now;
                    let until = self.both(
                        *queue,
                        |stripe, at| stripe.may_wait(at, *n, owner, now),
                        |queue, wakes| queue.may_wait(owner, now, wakes),
                    )?;
                    may_sleep &= until.flatten().is_some();
                }
                let nothing = if may_sleep { Stage::Asleep } else { Stage::Napping };
                self.sessions[who].stage = if found { Stage::Found } else { nothing };
            }
        }
        Ok(())
    }

    /// Takes a job of these kinds, in the end from the table. Was there one?
    pub fn claim(&mut self, queue: i32, kinds: &[u32]) -> Checked<bool> {
        let now = self.now;
        let wanted = |kind: u32| kinds.is_empty() || kinds.contains(&kind);
        loop {
            let found = self.both(
                queue,
                |stripe, at| stripe.take(at, now, &mut Search::begin(), |job| wanted(job.kind)),
                |queue, wakes| queue.take(now, wanted, wakes),
            )?;
            match found {
                Some(Found::Candidate(job)) if self.jobs.remove(&job.id).is_some() => return Ok(true),
                // It is gone from the table.
                Some(Found::Candidate(_) | Found::Again) => {}
                Some(Found::Nothing { .. }) => return Ok(false),
                _ => break,
            }
        }
        let ready = |(of, job): &&(i32, Candidate)| *of == queue && job.run_at <= now && wanted(job.kind);
        let Some(job) = self.jobs.values().filter(ready).map(|(_, job)| *job).min_by_key(Candidate::ready_key) else {
            return Ok(false);
        };
        self.jobs.remove(&job.id);
        self.both(
            queue,
            |stripe, at| stripe.withdraw(at, &[job]),
            |queue, _| {
                queue.ready.set.remove(&job.ready_key());
            },
        )?;
        Ok(true)
    }

    pub fn new_job(&mut self, queue: i32, priority: i32, kind: u32, ahead: i64) -> Candidate {
        let job = Candidate { priority, run_at: self.now + ahead * SECOND / 2, id: self.next_id, kind };
        self.next_id += 1;
        self.jobs.insert(job.id, (queue, job));
        job
    }

    /// In one hold of the lock.
    pub fn offer(&mut self, queue: i32, jobs: &[Candidate]) -> Checked {
        let now = self.now;
        self.both(
            queue,
            |stripe, at| jobs.iter().map(|job| stripe.offer(at, job, now)).collect::<Vec<_>>(),
            |queue, wakes| jobs.iter().map(|job| queue.offer(job, now, wakes)).collect(),
        )?;
        Ok(())
    }

    /// Offers all jobs again.
    fn sweep(&mut self, queue: i32) -> Checked {
        let jobs: Vec<Candidate> = self.jobs.values().filter(|(of, _)| *of == queue).map(|(_, job)| *job).collect();
        self.offer(queue, &jobs)
    }

    pub fn let_go(&mut self, queue: i32, job: &Candidate) -> Checked {
        let side = if job.run_at <= self.now { Side::Ready } else { Side::Due };
        let key = key_on(side, job);
        self.both(queue, |stripe, at| stripe.let_go(at, side, key), |queue, wakes| queue.let_go(side, key, wakes))?;
        Ok(())
    }

    /// Reads up to so many rows of one side.
    fn refill(&mut self, queue: i32, side: Side, limit: usize) -> Checked {
        let now = self.now;
        let mut number = 0;
        let begin = |stripe: &mut Stripe<'_>, at: usize| {
            let begun = stripe.begin(at, side, now);
            begun.map_or(Key::MAX, |(refill, from)| {
                number = refill;
                from
            })
        };
        let Some(from) = self.both(queue, begin, |queue, wakes| queue.begin(side, now, wakes))? else { return Ok(()) };
        let clock = self.queues.get(&queue).map_or(now, |queue| queue.clock);
        let on_side = |(of, job): &&(i32, Candidate)| *of == queue && (side == Side::Due || job.run_at <= clock);
        let mut rows: Vec<Candidate> = self.jobs.values().filter(on_side).map(|(_, job)| *job).collect();
        rows.retain(|job| key_on(side, job) >= from);
        rows.sort_by_key(|job| key_on(side, job));
        let next = rows.get(limit).map_or(Key::MAX, |job| key_on(side, job));
        rows.truncate(limit);
        self.both(
            queue,
            |stripe, at| stripe.merge(at, side, number, &rows) && stripe.end(at, side, number, next),
            |queue, _| {
                let before = queue.window(side).horizon;
                queue.window(side).refilled(rows.iter().map(|job| (key_on(side, job), *job)), next);
                queue.window(side).horizon > before
            },
        )?;
        Ok(())
    }

    /// The maintainer's alarm: in one hold of the lock what is due goes over in all queues. When it is to ring again.
    fn next_due(&mut self) -> Checked<i64> {
        let mut until = i64::MAX;
        let (mut wakes, mut expected_wakes) = (Wakes::none(), vec![]);
        let mut stripe = self.memory.stripe(&mut wakes);
        let known: Vec<(usize, i32)> = stripe.queues().map(|(at, key)| (at, key.queue)).collect();
        for (at, queue) in known {
            let expected = self.queues.get_mut(&queue).and_then(|queue| queue.next_due(self.now, &mut expected_wakes));
            prop_assert_eq!(stripe.next_due(at, self.now, false), expected);
            until = until.min(expected.unwrap_or(i64::MAX));
        }
        prop_assert_eq!(wakes.owners(), expected_wakes);
        Ok(until)
    }

    /// Forgets a queue and, if nobody waits for it, gives its place away.
    fn remove(&mut self, queue: i32) -> Checked {
        self.both(queue, |stripe, at| stripe.remove(at), |queue, wakes| queue.forget(wakes))?;
        self.queues.retain(|number, known| *number != queue || !known.line.is_empty());
        Ok(())
    }

    /// Somebody died while he changed the stripe: all is forgotten, the lines too.
    fn crash(&mut self) {
        self.memory = Memory { counts: self.memory.counts, ..Memory::new(self.memory.entries.len(), self.memory.waiters.len()) };
        self.queues.clear();
    }

    /// What can be seen of the stripe is so in the lists.
    fn same(&mut self) -> Checked {
        let queues: Vec<i32> = self.queues.keys().copied().collect();
        for queue in queues {
            self.both(queue, |stripe, at| stripe.timer(at, false), |queue, _| queue.timer())?;
            for side in [Side::Ready, Side::Due] {
                self.both(queue, |stripe, at| stripe.horizon(at, side), |queue, _| queue.window(side).horizon)?;
            }
            let line = self.queues.get(&queue).map(|queue| queue.line.clone()).unwrap_or_default();
            self.both(
                queue,
                |stripe, at| line.iter().map(|standing| stripe.is_woken(at, standing.n, standing.owner)).collect::<Vec<_>>(),
                |queue, _| queue.line.iter().map(|standing| standing.woken).collect(),
            )?;
        }
        Ok(())
    }

    /// Was he woken, or is it time for him to look?
    fn is_awake(&self, session: &Session) -> bool {
        let is_woken = |(queue, n): &(i32, u32)| {
            let line = self.queues.get(queue).map(|queue| &queue.line);
            let his = line.and_then(|line| line.iter().find(|standing| (standing.n, standing.owner) == (*n, session.owner)));
            his.is_none_or(|standing| standing.woken)
        };
        let is_time = |(queue, _): &(i32, u32)| self.queues.get(queue).is_some_and(|queue| queue.due.horizon.run_at <= self.now);
        let mut standings = session.standings.iter();
        match session.stage {
            Stage::Looking | Stage::Found => true,
            Stage::Asleep => standings.any(|standing| is_woken(standing) || is_time(standing)),
            // He looks now and then, but it takes long.
            Stage::Napping => standings.any(is_woken),
        }
    }

    /// Everybody who is awake goes on until nobody is: then nobody sleeps for whom there is a job.
    pub fn settle(&mut self) -> Checked {
        for _ in 0..100 {
            if self.next_due()? > self.now {
                break;
            }
        }
        for _ in 0..100_000 {
            let Some(who) = self.sessions.iter().position(|session| self.is_awake(session)) else { break };
            self.goes_on(who)?;
        }
        prop_assert!(!self.sessions.iter().any(|session| self.is_awake(session)), "they wake each other for ever");
        for session in self.sessions.iter().filter(|session| session.stage == Stage::Asleep) {
            let is_his = |(queue, job): &&(i32, Candidate)| {
                session.standings.iter().any(|(of, _)| of == queue) && job.run_at <= self.now && session.wants(job.kind)
            };
            let his = self.jobs.values().find(is_his);
            prop_assert!(his.is_none(), "{} sleeps, and there is {:?}", session.owner, his);
        }
        Ok(())
    }

    /// Everybody leaves: all places are free.
    fn ends(&mut self) -> Checked {
        while !self.sessions.is_empty() {
            self.dies(0)?;
        }
        self.same()?;
        for _ in 0..=self.memory.waiters.len() {
            self.join(&[1], &[])?;
        }
        prop_assert_eq!(self.sessions.len(), self.memory.waiters.len());
        Ok(())
    }
}

/// What may happen. Numbers of sessions are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Join(Vec<i32>, Vec<u32>),
    /// Many of the same kinds.
    Crowd(i32, Vec<u32>, usize),
    GoesOn(usize),
    Dies(usize),
    Offer(i32, i32, u32, i64),
    Tick(i64),
    NextDue,
    Settle,
    /// By somebody who does not wait.
    Claim(i32, Vec<u32>),
    OfferMany(i32, u32, usize),
    Look(i32),
    /// A job of a transaction that has too many of them.
    LetGo(i32, i32, u32, i64),
    Refill(i32, Side, usize),
    Sweep(i32),
    Remove(i32),
    ClockBack,
    Crash,
}

/// Kinds of steps: of a world in which all jobs are known and only those who wait take them; of that in which anything happens.
const CALM: Range<u32> = 0..40;
const ANY: Range<u32> = 1..54;
/// Anything but a clock that is set back and a crash, after which a sweep or a look finds what was forgotten.
const USUAL: Range<u32> = 0..52;

fn step(which: u32, queue: i32, kind: u32, number: usize) -> Step {
    let kinds = if number.is_multiple_of(3) {
        vec![]
    } else {
        (0..3).filter(|other| *other == kind || number % 3 == *other as usize).collect()
    };
    let (priority, ahead) = (number as i32 % 4, if number % 8 < 5 { 0 } else { number as i64 % 8 - 4 });
    match which {
        0 => Step::Settle,
        1..8 => Step::Join(if number.is_multiple_of(4) { vec![queue, queue % 3 + 1] } else { vec![queue] }, kinds),
        8 => Step::Crowd(queue, kinds, number % 70),
        9..24 => Step::GoesOn(number),
        24..28 => Step::Dies(number),
        28..36 => Step::Offer(queue, priority, kind, ahead),
        36..38 => Step::Tick(number as i64 % 3),
        38 | 39 => Step::NextDue,
        40 | 41 => Step::Claim(queue, kinds),
        42 => Step::OfferMany(queue, kind, number % 50),
        43..45 => Step::Look(queue),
        45 => Step::LetGo(queue, priority, kind, ahead),
        46..50 => Step::Refill(
            queue,
            if number.is_multiple_of(2) { Side::Due } else { Side::Ready },
            if number % 6 < 4 { SLOTS } else { 2 },
        ),
        50 => Step::Sweep(queue),
        51 => Step::Remove(queue),
        52 => Step::ClockBack,
        _ => Step::Crash,
    }
}

fn steps(kinds: Range<u32>, queues: i32) -> impl Strategy<Value = Vec<Step>> {
    let step = (kinds, 1..=queues, 0..3u32, 0..1_000usize).prop_map(|(which, queue, kind, n)| step(which, queue, kind, n));
    prop::collection::vec(step, 1..400)
}

impl World {
    fn step(&mut self, step: Step) -> Checked {
        let who = |n: usize, sessions: &[Session]| n.checked_rem(sessions.len());
        match step {
            Step::Join(queues, kinds) => self.join(&queues, &kinds)?,
            Step::Crowd(queue, kinds, count) => (0..count).try_for_each(|_| self.join(&[queue], &kinds))?,
            Step::GoesOn(n) => who(n, &self.sessions).map_or(Ok(()), |who| self.goes_on(who))?,
            Step::Dies(n) => who(n, &self.sessions).map_or(Ok(()), |who| self.dies(who))?,
            Step::Offer(queue, priority, kind, ahead) => {
                let job = self.new_job(queue, priority, kind, ahead);
                self.offer(queue, &[job])?;
            }
            Step::Tick(halves) => self.now += halves * SECOND / 2,
            Step::NextDue => self.next_due().map(drop)?,
            Step::Settle => self.settle()?,
            Step::Claim(queue, kinds) => self.claim(queue, &kinds).map(drop)?,
            Step::OfferMany(queue, kind, count) => {
                let jobs: Vec<Candidate> = (0..count).map(|_| self.new_job(queue, 0, kind, 0)).collect();
                self.offer(queue, &jobs)?;
            }
            Step::Look(queue) => self.entry(queue).map(drop)?,
            Step::LetGo(queue, priority, kind, ahead) => {
                let job = self.new_job(queue, priority, kind, ahead);
                self.let_go(queue, &job)?;
            }
            Step::Refill(queue, side, limit) => self.refill(queue, side, limit)?,
            Step::Sweep(queue) => self.sweep(queue)?,
            Step::Remove(queue) => self.remove(queue)?,
            Step::ClockBack => self.now -= 3 * SECOND,
            Step::Crash => self.crash(),
        }
        self.same()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever happens wakes whom it wakes in the lists: for each job one, at most 64 at once, in the order in which they came.
    #[test]
    fn those_are_woken_who_come_first(steps in steps(ANY, 4), places in 0..130usize) {
        let mut world = World::new(3, places);
        for step in steps {
            world.step(step)?;
        }
        world.ends()?;
    }

    /// As long as all jobs are known, and only those who wait take them.
    #[test]
    fn nobody_sleeps_while_there_is_a_job_for_him(steps in steps(CALM, 3), places in 0..WAKES) {
        let mut world = World::all_known(places)?;
        for step in steps {
            world.step(step)?;
        }
        world.settle()?;
        world.ends()?;
    }

    /// Whoever takes the jobs, and whatever is known of them.
    #[test]
    fn nobody_oversleeps(steps in steps(USUAL, 3), places in 0..130usize) {
        let mut world = World::all_known(places)?;
        for step in steps {
            world.step(step)?;
        }
        world.settle()?;
        world.ends()?;
    }
}
