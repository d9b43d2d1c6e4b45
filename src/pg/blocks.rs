//! Which blocks of the job table may hold running jobs: the rescue of every tick reads these, and not the whole table.
//!
//! Who makes a job running, or moves a running one to another place, marks its block *after* he has written there and before he
//! commits. Who looks takes the mark away *before* he reads the block, and puts it back when the block has a running job, committed or
//! not yet. So a block that has one is never without its mark for longer than a look. Claims by statements do not tell where they have
//! written: after them all blocks are looked at once.
//!
//! A mark too many costs the reading of a block, nothing else. All blocks are read also when a maintainer starts, when the table was
//! written anew (VACUUM FULL), and from time to time, for rows that others than jobq have changed.

use super::heap::Table;
use super::row::{Row, Values};
use super::{server, shmem};
use pgrx::pg_sys;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

/// One mark is for every block whose number has this remainder.
const MARKS: u32 = 65_536;
const WORD: u32 = 64;

/// The marks of one database's job table, in shared memory; zero to begin with.
pub(super) struct Marks {
    /// Counts requests to look at all blocks.
    wanted: AtomicU32,
    /// The requests that were answered by a look that came to its end.
    answered: AtomicU32,
    /// Looks that have begun.
    looks: AtomicU32,
    /// The file of the table at the last look.
    file: AtomicU32,
    /// By the clock that nobody sets: when all blocks are to be looked at in any case.
    all_at: AtomicI64,
    words: [AtomicU64; (MARKS / WORD) as usize],
}

impl Marks {
    fn word(&self, block: u32) -> Option<(&AtomicU64, u64)> {
        let n = block % MARKS;
        Some((self.words.get((n / WORD) as usize)?, 1 << (n % WORD)))
    }

    fn set(&self, block: u32) {
        if let Some((word, bit)) = self.word(block) {
            word.fetch_or(bit, SeqCst);
        }
    }

    pub(super) fn set_all(&self) {
        self.wanted.fetch_add(1, SeqCst);
    }
}

/// A running job was written into this block.
pub fn mark(block: u32) {
    if let Some(marks) = shmem::marks(server::database_oid()) {
        marks.set(block);
    }
}

/// A statement has written running jobs.
pub fn mark_all() {
    if let Some(marks) = shmem::marks(server::database_oid()) {
        marks.set_all();
    }
}

/// Calls `each` with every running job in a marked block that is committed, or was until somebody began to change it. `each` runs under
/// the lock of a page: it is short and raises nothing. False without shared memory: then nothing is known. One process at a time.
pub fn look(table: &Table, is_running: impl Fn(&Row<'_>) -> bool, mut each: impl FnMut(&Row<'_>)) -> bool {
    const ALL_EVERY_MICROS: i64 = 600_000_000;
    /// So many times as long as a look at all blocks takes, there is none without a reason.
    const ALL_PAUSE_FACTOR: i64 = 100;
    let Some(marks) = shmem::marks(server::database_oid()) else { return false };
    let (begun, file) = (server::monotonic_micros(), table.file().to_u32());
    let wanted = marks.wanted.load(SeqCst);
    let is_another_file = marks.file.swap(file, SeqCst) != file;
    let all = is_another_file || marks.answered.load(SeqCst) != wanted || marks.all_at.load(SeqCst) <= begun;
    // Until the end of this look the marks it takes away are known to nobody else.
    marks.answered.store(wanted.wrapping_sub(1), SeqCst);
    marks.looks.fetch_add(1, SeqCst);
    let mut blocks = Blocks::of(table);
    for (n, word) in (0u32..).zip(&marks.words) {
        let found = word.swap(0, SeqCst);
        let mut left = if all { u64::MAX } else { found };
        if left != 0 {
            // The table may have grown: what is marked by now is in blocks that are there by now.
            blocks.count_again();
        }
        while left != 0 {
            let first = n.saturating_mul(WORD).saturating_add(left.trailing_zeros());
            left &= left.wrapping_sub(1);
            for block in (first..blocks.count).step_by(MARKS as usize) {
                server::check_for_interrupts();
                let mut has_running = false;
                blocks.read(block, |row, is_there| {
                    if is_running(row) {
                        has_running = true;
                        if is_there {
                            each(row);
                        }
                    }
                });
                if has_running {
                    marks.set(block);
                }
            }
        }
    }
    if all {
        let now = server::monotonic_micros();
        let pause = now.saturating_sub(begun).saturating_mul(ALL_PAUSE_FACTOR).max(ALL_EVERY_MICROS);
        marks.all_at.store(now.saturating_add(pause), SeqCst);
    }
    marks.answered.store(wanted, SeqCst);
    true
}

/// Calls `each` with the running jobs that the active snapshot sees, and takes no mark away. False when not all blocks that have some are
/// known; then `each` may have been called in vain.
pub fn peek(table: &Table, mut each: impl FnMut(&Row<'_>)) -> bool {
    let Some(marks) = shmem::marks(server::database_oid()) else { return false };
    let known = || {
        let (looks, wanted) = (marks.looks.load(SeqCst), marks.wanted.load(SeqCst));
        (marks.answered.load(SeqCst) == wanted && marks.file.load(SeqCst) == table.file().to_u32()).then_some((looks, wanted))
    };
    let Some(before) = known() else { return false };
    let mut blocks = Blocks::of(table);
    for (n, word) in (0u32..).zip(&marks.words) {
        let mut left = word.load(SeqCst);
        while left != 0 {
            let first = n.saturating_mul(WORD).saturating_add(left.trailing_zeros());
            left &= left.wrapping_sub(1);
            for block in (first..blocks.count).step_by(MARKS as usize) {
                server::check_for_interrupts();
                blocks.read_visible(block, &mut each);
            }
        }
    }
    // A look that began meanwhile had taken marks away.
    known() == Some(before)
}

/// The blocks of a table, to be read one by one.
struct Blocks<'t> {
    table: &'t Table,
    count: u32,
    strategy: pg_sys::BufferAccessStrategy,
}

impl Blocks<'_> {
    /// All there are now.
    fn of(table: &Table) -> Blocks<'_> {
        // SAFETY: the relation is open and locked. The ring of buffers is freed with the current memory context.
        unsafe {
            let count = pg_sys::RelationGetNumberOfBlocksInFork(table.relation, pg_sys::ForkNumber::MAIN_FORKNUM);
            let strategy = pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_BULKREAD);
            Blocks { table, count, strategy }
        }
    }

    fn count_again(&mut self) {
        // SAFETY: the relation is open and locked.
        self.count = unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.table.relation, pg_sys::ForkNumber::MAIN_FORKNUM) };
    }

    /// Calls `each` with the row versions of a block that are committed, or were until somebody began to change them (true), and with
    /// those that an open transaction has written (false). The page is locked meanwhile: `each` must be short and raise nothing.
    fn read(&mut self, block: u32, each: impl FnMut(&Row<'_>, bool)) {
        use pg_sys::HTSV_Result::{HEAPTUPLE_DELETE_IN_PROGRESS, HEAPTUPLE_INSERT_IN_PROGRESS, HEAPTUPLE_LIVE};
        // SAFETY: `read_if` passes a tuple of a page that it has locked.
        let is_there = |tuple, buffer| unsafe {
            match pg_sys::HeapTupleSatisfiesVacuum(tuple, pg_sys::FirstNormalTransactionId, buffer) {
                HEAPTUPLE_LIVE | HEAPTUPLE_DELETE_IN_PROGRESS => Some(true),
                HEAPTUPLE_INSERT_IN_PROGRESS => Some(false),
                _ => None,
            }
        };
        self.read_if(block, is_there, each);
    }

    /// The same with those that the active snapshot sees.
    fn read_visible(&mut self, block: u32, mut each: impl FnMut(&Row<'_>)) {
        // SAFETY: as in `read`; `direct` has pushed the snapshot.
        let is_visible = |tuple, buffer| unsafe {
            pg_sys::HeapTupleSatisfiesVisibility(tuple, pg_sys::GetActiveSnapshot(), buffer).then_some(true)
        };
        self.read_if(block, is_visible, |row, _| each(row));
    }

    fn read_if(
        &mut self,
        block: u32,
        is_there: impl Fn(pg_sys::HeapTuple, pg_sys::Buffer) -> Option<bool>,
        mut each: impl FnMut(&Row<'_>, bool),
    ) {
        let relation = self.table.relation;
        // SAFETY: the block is below the count, and a table that somebody has open loses none. Page and rows are looked at under the
        // lock of the buffer; an ERROR gives it back.
        unsafe {
            let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
            let mode = pg_sys::ReadBufferMode::RBM_NORMAL;
            let buffer = pg_sys::ReadBufferExtended(relation, fork, block, mode, self.strategy);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as _);
            let page = pg_sys::BufferGetPage(buffer);
            for offset in 1..=pg_sys::PageGetMaxOffsetNumber(page) {
                let item = pg_sys::PageGetItemId(page, offset);
                if (*item).lp_flags() != pg_sys::LP_NORMAL {
                    continue;
                }
                let mut place = pg_sys::ItemPointerData::default();
                pgrx::itemptr::item_pointer_set_all(&mut place, block, offset);
                let mut tuple = pg_sys::HeapTupleData {
                    t_len: (*item).lp_len(),
                    t_self: place,
                    t_tableOid: (*relation).rd_id,
                    t_data: pg_sys::PageGetItem(page, item).cast(),
                };
                let Some(is_there) = is_there(&mut tuple, buffer) else { continue };
                let mut values = Values::default();
                pg_sys::heap_deform_tuple(
                    &mut tuple,
                    self.table.descriptor(),
                    values.datums.as_mut_ptr(),
                    values.nulls.as_mut_ptr(),
                );
                let writer = (*tuple.t_data).t_choice.t_heap.t_xmin;
                each(&Row { values, place, writer, scan: PhantomData }, is_there);
            }
            pg_sys::UnlockReleaseBuffer(buffer);
        }
    }
}
