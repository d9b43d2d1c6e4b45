//! claim_wait: api::wait and pg::waiting.

use crate::rules::{Rule, off, with};
use crate::world::{Mute, WaitStage, Why, World, kinds_of};

impl World {
    pub fn go_on_waiting(&mut self, who: usize) {
        let Some(waiting) = self.sessions[who].waiting.clone() else { return };
        match waiting.stage {
            WaitStage::Join | WaitStage::Nap => {
                self.join(who);
                self.waits(who, WaitStage::Look);
            }
            WaitStage::Look => {
                self.waits(who, WaitStage::Decide);
                self.start(who, crate::world::Op::Claim { queue: waiting.queue, kinds: waiting.kinds });
            }
            WaitStage::Decide => self.decide(who, waiting.is_over),
            WaitStage::Asleep => {
                self.sessions[who].latch = false;
                let is_woken = self.is_woken(who) || self.now >= waiting.until;
                self.say(Some(who), || format!("looks at its latch, woken: {is_woken}"));
                if is_woken {
                    self.waits(who, WaitStage::Join);
                }
            }
            WaitStage::Leave(why) => self.leave(who, why),
        }
    }

    fn waits(&mut self, who: usize, stage: WaitStage) {
        if let Some(waiting) = &mut self.sessions[who].waiting {
            waiting.stage = stage;
        }
    }

    fn join(&mut self, who: usize) {
        let Some(waiting) = self.sessions[who].waiting.clone() else { return };
        let owner = who as u64 + 1;
        if let Some(place) = waiting.place {
            if self.locked(waiting.queue, |stripe, at| stripe.rejoin(at, place.0, owner)) == Some(true) {
                return self.say(Some(who), || "takes up its place again".into());
            }
            self.leave_line(who, Why::Over);
        }
        let kinds = kinds_of(waiting.kinds);
        let place = self.locked_entry(waiting.queue, |stripe, at| stripe.join(at, owner, &kinds)).flatten();
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(waiting) = &mut self.sessions[who].waiting {
            (waiting.place, waiting.ticket) = (place.map(Mute), Mute(ticket));
        }
        self.say(Some(who), || format!("joins the line{}", if place.is_some() { "" } else { ", in which there is no place" }));
    }

    /// It has looked.
    fn decide(&mut self, who: usize, is_over: bool) {
        if self.sessions[who].found {
            return self.waits(who, WaitStage::Leave(Why::Found));
        }
        if self.sessions[who].tx.is_some() {
            return self.end(who, true);
        }
        if is_over {
            return self.waits(who, WaitStage::Leave(Why::Over));
        }
        if off(Rule::W1) {
            self.join(who);
            return self.waits(who, WaitStage::Asleep);
        }
        let Some(waiting) = self.sessions[who].waiting.clone() else { return };
        let now = self.now;
        let owner = who as u64 + 1;
        let until = waiting
            .place
            .and_then(|place| self.locked(waiting.queue, |stripe, at| stripe.may_wait(at, place.0, owner, now)).flatten());
        if let Some(waiting) = &mut self.sessions[who].waiting {
            waiting.until = until.unwrap_or(i64::MAX);
        }
        let may_sleep = until.is_some();
        self.say(Some(who), || if may_sleep { "goes to sleep".into() } else { "naps".into() });
        self.waits(who, if may_sleep { WaitStage::Asleep } else { WaitStage::Nap });
    }

    fn is_woken(&mut self, who: usize) -> bool {
        let Some(waiting) = self.sessions[who].waiting.clone() else { return true };
        let Some(place) = waiting.place else { return true };
        self.locked(waiting.queue, |stripe, at| stripe.is_woken(at, place.0, who as u64 + 1)).unwrap_or(true)
    }

    pub fn leave(&mut self, who: usize, why: Why) {
        self.say(Some(who), || format!("leaves the line: {why:?}"));
        self.leave_line(who, why);
        self.sessions[who].waiting = None;
        self.sessions[who].latch = false;
    }

    fn leave_line(&mut self, who: usize, why: Why) {
        let Some(waiting) = self.sessions[who].waiting.clone() else { return };
        let Some(place) = waiting.place else { return };
        let leave = |world: &mut World| {
            world.locked(waiting.queue, |stripe, at| stripe.leave(at, place.0, who as u64 + 1));
        };
        with(Rule::W2, why != Why::Over, || {
            with(Rule::W3, why != Why::Cancelled, || with(Rule::W5, why != Why::Found, || leave(self)));
        });
    }
}
