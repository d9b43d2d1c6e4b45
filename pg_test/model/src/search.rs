//! Every order of events of a small world, breadth first: what it finds first is a shortest trace.

use crate::turn::Choice;
use crate::world::World;
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

pub struct Outcome {
    pub states: usize,
    /// There were more states than were looked at.
    pub is_cut: bool,
    pub wrong: Option<(String, Vec<Choice>)>,
}

/// What decides what can happen next, without numbers that differ from one history to the other only.
fn fingerprint(world: &World) -> u128 {
    let hash = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        (world.now, &world.rows, &world.sessions, &world.prepared, world.budget).hash(&mut hasher);
        for session in &world.sessions {
            if let Some(refill) = &session.refill {
                let view = world.memory.view(refill.queue);
                view.is_some_and(|entry| [entry.ready.refill, entry.due.refill].contains(&refill.number.0)).hash(&mut hasher);
            }
            if let Some(waiting) = &session.waiting {
                waiting.place.map(|place| (world.memory.is_woken(place.0), world.memory.owes(place.0))).hash(&mut hasher);
                let before = |other: &crate::world::Waiting| other.queue == waiting.queue && other.ticket.0 < waiting.ticket.0;
                world.sessions.iter().filter(|other| other.waiting.as_ref().is_some_and(before)).count().hash(&mut hasher);
            }
        }
        let mut looks = Vec::new();
        for queue in 0..8u8 {
            let Some(entry) = world.memory.view(queue) else { continue };
            looks.push((entry.looked_at, queue));
            (queue, entry.clock, entry.line.count).hash(&mut hasher);
            for window in [&entry.ready, &entry.due] {
                // The floor counts while there is a refill, and only above the horizon.
                let floor = Some(window.floor.max(window.horizon)).filter(|_| window.refill != 0);
                (window.horizon, floor).hash(&mut hasher);
                for (key, candidate) in world.memory.content(window) {
                    (key, candidate.priority, candidate.kind).hash(&mut hasher);
                }
            }
        }
        if world.setup.places < world.queues().len() {
            looks.sort_unstable();
            looks.iter().for_each(|(_, queue)| queue.hash(&mut hasher));
        }
        hasher.finish()
    };
    u128::from(hash(1)) << 64 | u128::from(hash(2))
}

pub fn search(start: World, most: usize) -> Outcome {
    let mut seen = HashSet::from([fingerprint(&start)]);
    let mut came: Vec<Option<(usize, Choice)>> = vec![None];
    let mut next = VecDeque::from([(0usize, start)]);
    while let Some((at, world)) = next.pop_front() {
        let choices = world.choices();
        let wrong = world.violated().or_else(|| if choices.is_empty() { world.unfinished() } else { None });
        if let Some(wrong) = wrong {
            return Outcome { states: came.len(), is_cut: false, wrong: Some((wrong, path(&came, at))) };
        }
        for choice in choices {
            let mut after = world.clone();
            after.step(choice);
            if seen.insert(fingerprint(&after)) || after.wrong.is_some() {
                came.push(Some((at, choice)));
                next.push_back((came.len() - 1, after));
            }
        }
        if came.len() > most {
            return Outcome { states: came.len(), is_cut: true, wrong: None };
        }
    }
    Outcome { states: came.len(), is_cut: false, wrong: None }
}

fn path(came: &[Option<(usize, Choice)>], mut at: usize) -> Vec<Choice> {
    let mut path = Vec::new();
    while let Some(Some((from, choice))) = came.get(at) {
        path.push(*choice);
        at = *from;
    }
    path.reverse();
    path
}

/// What happened, in words.
pub fn tell(start: World, path: &[Choice]) -> Vec<String> {
    let mut world = World { log: Some(Vec::new()), ..start };
    path.iter().for_each(|choice| world.step(*choice));
    world.log.unwrap_or_default()
}
