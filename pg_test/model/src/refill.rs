//! Refills, sweeps, and the maintainer's alarm: store::candidates and background::proposals.

use crate::dispatch::Key;
use crate::dispatch::stripe::Side;
use crate::heap::{Read, read_due, read_ready};
use crate::memory::queue_key;
use crate::rules::{Rule, off, with};
use crate::world::{Refill, RefillStage, World};

impl World {
    pub fn go_on_refilling(&mut self, who: usize) {
        let Some(mut refill) = self.sessions[who].refill.clone() else { return };
        match refill.stage {
            RefillStage::Early => self.refill_early(who, &mut refill),
            RefillStage::Begin => return self.refill_begins(who, refill),
            RefillStage::Read => {
                self.read_for_refill(who, &refill);
                refill.stage = RefillStage::Merge;
            }
            RefillStage::Merge => return self.merge(who, &refill),
        }
        self.sessions[who].refill = Some(refill);
    }

    /// What comes before the beginning when rule D3 or T1 is off.
    fn refill_early(&mut self, who: usize, refill: &mut Refill) {
        let wall = self.now;
        (refill.now, refill.stage) = (wall, RefillStage::Begin);
        if off(Rule::D3) {
            let from = self.locked_entry(refill.queue, |stripe, at| stripe.horizon(at, refill.side));
            refill.from = from.unwrap_or(Key::MIN);
            self.read_for_refill(who, refill);
        }
    }

    fn refill_begins(&mut self, who: usize, mut refill: Refill) {
        let (side, wall) = (refill.side, self.now);
        let begun = self.locked_entry(refill.queue, |stripe, at| {
            let now = stripe.clock(at, wall);
            let begun = stripe.begin(at, side, now)?;
            Some((begun.0, begun.1, now))
        });
        let Some((number, from, now)) = begun.flatten() else {
            self.say(Some(who), || format!("finds the {side:?} side of queue {} being refilled", refill.queue));
            self.sessions[who].refill = None;
            return self.refill_of_claim_is_over(who, side, refill.asked_at, false);
        };
        refill.number.0 = number;
        refill.stage = RefillStage::Read;
        if off(Rule::D3) {
            refill.stage = RefillStage::Merge;
        } else {
            refill.from = from;
        }
        refill.now = if off(Rule::T1) { refill.now } else { now };
        self.say(Some(who), || {
            format!("begins to refill the {side:?} side of queue {} from {}", refill.queue, show_key(refill.from))
        });
        if let Some(tx) = &mut self.sessions[who].tx {
            tx.refill_sub = Some(tx.sub());
        }
        self.sessions[who].refill = Some(refill);
    }

    fn read_for_refill(&mut self, who: usize, refill: &Refill) {
        let old = self.sessions[who].tx.as_ref().and_then(|tx| tx.snapshot.clone()).filter(|_| off(Rule::D4));
        let view = old.unwrap_or_else(|| self.view(who));
        let limit = self.setup.refill;
        let read = match refill.side {
            Side::Ready => read_ready(&view, refill.queue, refill.from, Key::MAX, refill.now, limit, true),
            Side::Due => read_due(&view, refill.queue, refill.from, Key::MAX, limit),
        };
        self.say(Some(who), || format!("reads {}", show_read(&read)));
        (self.sessions[who].read, self.sessions[who].merged) = (Some(read), 0);
    }

    fn merge(&mut self, who: usize, refill: &Refill) {
        let Some(read) = self.sessions[who].read.clone() else { return };
        let (side, number, merged) = (refill.side, refill.number.0, self.sessions[who].merged);
        let next = read.next.unwrap_or(Key::MAX);
        let chunk: Vec<_> = read.rows.iter().skip(merged).take(self.setup.chunk).map(|row| row.candidate()).collect();
        if !chunk.is_empty() {
            self.sessions[who].merged += chunk.len();
            self.say(Some(who), || format!("merges {} of them", chunk.len()));
            self.locked(refill.queue, |stripe, at| stripe.merge(at, side, number, &chunk));
            // Without rule B1 the horizon moves with the first chunk, and the others are offered behind it.
            if off(Rule::B1) && merged == 0 {
                self.locked(refill.queue, |stripe, at| stripe.end(at, side, number, next));
            }
            return;
        }
        let more = self.locked(refill.queue, |stripe, at| {
            with(Rule::D2, side == Side::Due, || with(Rule::T4, side == Side::Ready, || stripe.end(at, side, number, next)))
        });
        self.say(Some(who), || format!("ends the refill: more is known: {}", more == Some(true)));
        let session = &mut self.sessions[who];
        (session.refill, session.read, session.merged) = (None, None, 0);
        if let Some(tx) = &mut session.tx {
            tx.refill_sub = None;
        }
        self.refill_of_claim_is_over(who, side, refill.asked_at, more == Some(true));
    }

    pub fn go_on_sweeping(&mut self, who: usize) {
        let Some(mut sweep) = self.sessions[who].sweep.clone() else { return };
        if !sweep.begun {
            sweep.begun = true;
            let (parts, wakes) = self.memory.hold(|stripe| {
                let known: Vec<(usize, u8)> = stripe.queues().map(|(at, key)| (at, key.queue as u8)).collect();
                let mut parts = Vec::new();
                for (at, queue) in known {
                    stripe.interrupt_refills(at);
                    for side in [Side::Ready, Side::Due] {
                        parts.push((queue, side, Key::MIN, stripe.horizon(at, side)));
                    }
                }
                parts
            });
            self.wake(&wakes);
            sweep.parts = parts.into_iter().filter(|(_, _, from, before)| from < before).collect();
            let must_find = |row: &u8| {
                let row = &self.rows[*row as usize];
                row.untold && !self.is_stranded(&row.committed)
            };
            sweep.untold = (0..self.rows.len() as u8).filter(must_find).collect();
            self.say(Some(who), || "begins a sweep".into());
        } else if let (Some(read), Some(part)) = (sweep.read.take(), sweep.parts.last_mut()) {
            part.2 = read.next.unwrap_or(Key::MAX);
            let is_done = part.2 >= part.3;
            let queue = part.0;
            if is_done {
                sweep.parts.pop();
            }
            self.offer(who, queue, &read.rows);
            for job in &read.rows {
                self.rows[job.row()].is_quiet &= self.rows[job.row()].committed != *job;
            }
        } else if let Some((queue, side, from, before)) = sweep.parts.last().copied() {
            let view: Vec<_> = self.rows.iter().map(|row| row.committed).collect();
            let read = match side {
                Side::Ready => read_ready(&view, queue, from, before, self.now, self.setup.refill, false),
                Side::Due => read_due(&view, queue, from, before, self.setup.refill),
            };
            self.say(Some(who), || format!("sweep reads {}", show_read(&read)));
            if read.next.is_some_and(|next| next <= from) && read.rows.is_empty() {
                self.blame(|| "a sweep does not get on".into());
            }
            sweep.read = Some(read);
        }
        let is_over = sweep.parts.is_empty();
        for row in sweep.untold.iter().filter(|_| is_over).map(|row| *row as usize) {
            self.rows[row].untold = false;
        }
        self.sessions[who].sweep = Some(sweep).filter(|_| !is_over);
    }

    /// The maintainer's alarm has gone off, or it was woken: due jobs go to those who wait for them.
    pub fn tick(&mut self, who: usize) {
        let now = self.now;
        self.say(Some(who), || "looks what has fallen due".into());
        let ((), wakes) = self.memory.hold(|stripe| {
            let known: Vec<usize> = stripe.queues().map(|(at, _)| at).collect();
            for at in known {
                stripe.next_due(at, now, false);
            }
        });
        self.wake(&wakes);
    }

    /// The side of a queue that the maintainer would refill.
    pub fn low(&mut self, queue: u8) -> Option<Side> {
        let (low_water, now) = (self.setup.low_water, self.now);
        let is_overtaken = self.memory.view(queue).is_some_and(|entry| entry.line.count > 0 && entry.due.horizon.run_at <= now);
        let (side, _) = self.memory.hold(|stripe| stripe.find(&queue_key(queue)).and_then(|at| stripe.low(at, low_water)));
        side.or(Some(Side::Due).filter(|_| is_overtaken && !off(Rule::K4)))
    }
}

pub fn show_key(key: Key) -> String {
    match key {
        Key::MIN => "the beginning".into(),
        Key::MAX => "the end".into(),
        Key { rank, run_at, id } => format!("{rank}:{}:{id}", run_at as f64 / 1e6),
    }
}

fn show_read(read: &Read) -> String {
    let rows: Vec<String> = read.rows.iter().map(crate::ops::show).collect();
    format!("[{}], up to {}", rows.join(", "), show_key(read.next.unwrap_or(Key::MAX)))
}
