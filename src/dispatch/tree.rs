//! Ordered sets in a pool of slots: treaps, whose shape depends on the keys alone, so that every operation takes O(log n) expected
//! steps and none needs recursion. (Seidel and Aragon, Randomized Search Trees, 1996.)

use super::{Candidate, Key};

/// One slot of the pool. Links are numbers of slots from 1; 0 is none.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Slot {
    key: Key,
    priority: i32,
    kind: u32,
    /// The parent's is at least as large.
    weight: u32,
    left: u32,
    right: u32,
}

// A free slot is a link of the list of free slots: `left` is the next one. When a whole tree is given back its root carries the two
// halves along, in `right` and `weight`, and whoever takes a slot takes them apart by one step.

/// Slots for many sets. Zeroed numbers are those of a pool in which nothing is used.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Free {
    /// The first of the slots that were used and are free again.
    first: u32,
    /// Slots that were ever used.
    touched: u32,
    used: u32,
}

/// An ordered set. Zeroed: empty.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Tree {
    root: u32,
    len: u32,
}

pub struct Pool<'m> {
    pub slots: &'m mut [Slot],
    pub free: &'m mut Free,
}

/// A link in a tree: that to its root, or of a slot to one of its children.
#[derive(Clone, Copy)]
enum Link {
    Root,
    Left(u32),
    Right(u32),
}

impl Free {
    /// Slots in use.
    pub fn used(&self) -> usize {
        self.used as usize
    }
}

impl Slot {
    fn candidate(&self) -> Candidate {
        Candidate { priority: self.priority, run_at: self.key.run_at, id: self.key.id, kind: self.kind }
    }

    pub const EMPTY: Slot = Slot { key: Key::MIN, priority: 0, kind: 0, weight: 0, left: 0, right: 0 };
}

impl Tree {
    pub const EMPTY: Tree = Tree { root: 0, len: 0 };

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Bits of the key that nobody chooses, mixed (the finalizer of MurmurHash3).
fn weight(key: &Key) -> u32 {
    let mut h = (key.id as u64) ^ (key.id >> 64) as u64 ^ key.run_at as u64;
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (h ^ (h >> 33)) as u32
}

impl Pool<'_> {
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub fn used(&self) -> usize {
        self.free.used()
    }

    pub fn is_full(&self) -> bool {
        self.used() >= self.capacity()
    }

    fn slot(&self, n: u32) -> Slot {
        let index = (n as usize).wrapping_sub(1);
        self.slots.get(index).copied().unwrap_or(Slot::EMPTY)
    }

    fn change(&mut self, n: u32, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.get_mut((n as usize).wrapping_sub(1)) {
            change(slot);
        }
    }

    fn follow(&self, tree: &Tree, link: Link) -> u32 {
        match link {
            Link::Root => tree.root,
            Link::Left(n) => self.slot(n).left,
            Link::Right(n) => self.slot(n).right,
        }
    }

    fn set(&mut self, tree: &mut Tree, link: Link, to: u32) {
        match link {
            Link::Root => tree.root = to,
            Link::Left(n) => self.change(n, |slot| slot.left = to),
            Link::Right(n) => self.change(n, |slot| slot.right = to),
        }
    }

    fn take_slot(&mut self) -> Option<u32> {
        let n = if self.free.first != 0 {
            let n = self.free.first;
            let Slot { left, right, weight, .. } = self.slot(n);
            self.free.first = left;
            self.give_back_tree(right);
            self.give_back_tree(weight);
            n
        } else if (self.free.touched as usize) < self.capacity() {
            self.free.touched = self.free.touched.saturating_add(1);
            self.free.touched
        } else {
            return None;
        };
        self.free.used = self.free.used.saturating_add(1);
        Some(n)
    }

    fn give_back(&mut self, n: u32) {
        let first = self.free.first;
        self.change(n, |slot| *slot = Slot { left: first, ..Slot::EMPTY });
        self.free.first = n;
        self.free.used = self.free.used.saturating_sub(1);
    }

    /// Puts a tree on the list of free slots, in one step.
    fn give_back_tree(&mut self, root: u32) {
        if root != 0 {
            let Slot { left, right, .. } = self.slot(root);
            let first = self.free.first;
            self.change(root, |slot| *slot = Slot { left: first, right: left, weight: right, ..Slot::EMPTY });
            self.free.first = root;
        }
    }

    fn find(&self, tree: &Tree, key: &Key) -> Option<Link> {
        let mut link = Link::Root;
        loop {
            let n = self.follow(tree, link);
            if n == 0 {
                return None;
            }
            link = match key.cmp(&self.slot(n).key) {
                std::cmp::Ordering::Equal => return Some(link),
                std::cmp::Ordering::Less => Link::Left(n),
                std::cmp::Ordering::Greater => Link::Right(n),
            };
        }
    }

    pub fn contains(&self, tree: &Tree, key: &Key) -> bool {
        self.find(tree, key).is_some()
    }

    /// False without a free slot. The key must not be there.
    pub fn insert(&mut self, tree: &mut Tree, key: Key, candidate: &Candidate) -> bool {
        let Some(new) = self.take_slot() else { return false };
        let weight = weight(&key);
        let mut link = Link::Root;
        loop {
            let n = self.follow(tree, link);
            let slot = self.slot(n);
            if n == 0 || slot.weight < weight {
                let (left, right) = self.split(tree, n, &key);
                let (priority, kind) = (candidate.priority, candidate.kind);
                self.change(new, |slot| *slot = Slot { key, priority, kind, weight, left, right });
                self.set(tree, link, new);
                tree.len = tree.len.saturating_add(1);
                return true;
            }
            link = if key < slot.key { Link::Left(n) } else { Link::Right(n) };
        }
    }

    /// The part of a tree that is before the key, and the part behind.
    fn split(&mut self, tree: &mut Tree, mut n: u32, key: &Key) -> (u32, u32) {
        let (mut before, mut behind) = (0, 0);
        let (mut last_before, mut last_behind) = (0, 0);
        while n != 0 {
            let slot = self.slot(n);
            if slot.key < *key {
                if last_before == 0 {
                    before = n;
                } else {
                    self.set(tree, Link::Right(last_before), n);
                }
                (last_before, n) = (n, slot.right);
            } else {
                if last_behind == 0 {
                    behind = n;
                } else {
                    self.set(tree, Link::Left(last_behind), n);
                }
                (last_behind, n) = (n, slot.left);
            }
        }
        self.set(tree, Link::Right(last_before), 0);
        self.set(tree, Link::Left(last_behind), 0);
        (before, behind)
    }

    pub fn remove(&mut self, tree: &mut Tree, key: &Key) -> Option<Candidate> {
        let link = self.find(tree, key)?;
        Some(self.remove_at(tree, link))
    }

    fn remove_at(&mut self, tree: &mut Tree, mut link: Link) -> Candidate {
        let gone = self.follow(tree, link);
        let slot = self.slot(gone);
        let (mut left, mut right) = (slot.left, slot.right);
        // Joins the two parts: the heavier root comes first.
        while left != 0 && right != 0 {
            if self.slot(left).weight >= self.slot(right).weight {
                self.set(tree, link, left);
                (link, left) = (Link::Right(left), self.slot(left).right);
            } else {
                self.set(tree, link, right);
                (link, right) = (Link::Left(right), self.slot(right).left);
            }
        }
        self.set(tree, link, left | right);
        self.give_back(gone);
        tree.len = tree.len.saturating_sub(1);
        slot.candidate()
    }

    fn end(&self, tree: &Tree, toward: fn(u32) -> Link) -> Option<Link> {
        let mut link = Link::Root;
        let mut n = tree.root;
        if n == 0 {
            return None;
        }
        loop {
            let further = self.follow(tree, toward(n));
            if further == 0 {
                return Some(link);
            }
            (link, n) = (toward(n), further);
        }
    }

    pub fn first(&self, tree: &Tree) -> Option<Key> {
        self.end(tree, Link::Left).map(|link| self.slot(self.follow(tree, link)).key)
    }

    pub fn last(&self, tree: &Tree) -> Option<Key> {
        self.end(tree, Link::Right).map(|link| self.slot(self.follow(tree, link)).key)
    }

    pub fn take_first(&mut self, tree: &mut Tree) -> Option<Candidate> {
        self.end(tree, Link::Left).map(|link| self.remove_at(tree, link))
    }

    pub fn take_last(&mut self, tree: &mut Tree) -> Option<Candidate> {
        self.end(tree, Link::Right).map(|link| self.remove_at(tree, link))
    }

    /// The first one behind the key.
    pub fn after(&self, tree: &Tree, key: &Key) -> Option<(Key, Candidate)> {
        let (mut n, mut found) = (tree.root, None);
        while n != 0 {
            let slot = self.slot(n);
            if slot.key > *key {
                (found, n) = (Some((slot.key, slot.candidate())), slot.left);
            } else {
                n = slot.right;
            }
        }
        found
    }

    /// Empties the set; takes as long for many as for few.
    pub fn clear(&mut self, tree: &mut Tree) {
        self.give_back_tree(tree.root);
        self.free.used = self.free.used.saturating_sub(tree.len);
        *tree = Tree::EMPTY;
    }
}
