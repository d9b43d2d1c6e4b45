//! Reading and writing rows of our own tables without the executor, for the calls that run thousands of times a second.
//!
//! A statement that touches one row spends most of its time in being started: expressions are compiled, index predicates prepared,
//! CHECK constraints read from their text. Here the same is done with the server's own row and index functions, in the order in which
//! the executor calls them: lock and open the tables, take a snapshot, find the row through an index, write the row version, write the
//! index entries unless it is a heap-only tuple.
//!
//! It is for tables as sql/schema declares them and for ordinary transactions. For anything else (a trigger, a rule, an index on an
//! expression, another table access method, another column, REPEATABLE READ, a read-only transaction, a standby) `direct` answers
//! None, and the caller runs its statement instead. CHECK constraints are not evaluated, except in builds with debug assertions: what
//! is written is of our own making, never a user's row.

use super::row::{Row, RowMemory, Values};
use super::shape::{self, IndexSpec, Shape, TableSpec};
use super::spi::Param;
use super::switch::table_oid;
use crate::clock::Timestamp;
use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::LazyLock;
use uuid::Uuid;

/// What a table is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Read,
    Insert,
    Update,
    Delete,
}

impl Use {
    fn lock(self) -> pg_sys::LOCKMODE {
        let lock = if self == Use::Read { pg_sys::AccessShareLock } else { pg_sys::RowExclusiveLock };
        lock as pg_sys::LOCKMODE
    }
}

/// Opens the tables, in this order, and runs `body` with a new snapshot. None, from here or from `body` before it has written
/// anything: use statements.
pub fn direct<T, const N: usize>(
    wanted: [(&CStr, &'static TableSpec, Use); N],
    body: impl FnOnce(&[Table; N]) -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let reads_only = wanted.iter().all(|(_, _, how)| *how == Use::Read);
    // SAFETY: reads of this backend's state.
    let ordinary = unsafe {
        pg_sys::XactIsoLevel <= pg_sys::XACT_READ_COMMITTED as c_int
            && (reads_only || !pg_sys::XactReadOnly)
            && !pg_sys::IsInParallelMode()
    };
    if !ordinary {
        return Ok(None);
    }
    let mut tables = Vec::with_capacity(N);
    for (name, spec, how) in wanted {
        let Some(table) = Table::open(name, spec, how) else { return Ok(None) };
        tables.push(table);
    }
    let Ok(tables) = <[Table; N]>::try_from(tables) else { return Ok(None) };
    // SAFETY: inside a transaction, as every call from SQL is. What is pushed is popped here, or by the abort after an ERROR.
    // The snapshot comes after the locks: what was waited for is seen. As for a statement in a volatile function, what was written
    // before is seen, and what follows sees our rows.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let outcome = body(&tables);
        pg_sys::PopActiveSnapshot();
        pg_sys::CommandCounterIncrement();
        outcome
    }
}

/// What is committed by now is seen by the scans that are opened from here on. Only inside `direct`, with no scan open.
pub fn look_again() {
    // SAFETY: `direct` has pushed the snapshot that is popped, and pops this one.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
}

/// An open table, locked until the transaction ends.
pub struct Table {
    pub(super) relation: pg_sys::Relation,
    /// For a partition: the table it belongs to; else null.
    parent: pg_sys::Relation,
    spec: &'static TableSpec,
    shape: Rc<Shape>,
    how: Use,
}

impl Drop for Table {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in Table::open. The locks stay.
            unsafe {
                pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
                if !self.parent.is_null() {
                    pg_sys::table_close(self.parent, pg_sys::NoLock as pg_sys::LOCKMODE);
                }
            }
        }
    }
}

/// None when there is no such table, or it is just being dropped.
///
/// # Safety
/// The caller closes it.
unsafe fn open_table(name: &CStr, how: Use) -> Option<pg_sys::Relation> {
    let oid = table_oid(name);
    if oid == pg_sys::InvalidOid {
        return None;
    }
    // SAFETY: takes the lock, or raises.
    let relation = unsafe { pg_sys::try_table_open(oid, how.lock()) };
    (!relation.is_null()).then_some(relation)
}

/// A condition on one of the leading columns of an index.
#[derive(Clone, Copy)]
pub struct Key {
    column: pg_sys::AttrNumber,
    strategy: u32,
    procedure: u32,
    value: Param,
}

impl Key {
    pub fn int_is(column: i16, value: i32) -> Key {
        Key { column, strategy: pg_sys::BTEqualStrategyNumber, procedure: pg_sys::F_INT4EQ, value: value.into() }
    }
    pub fn smallint_is(column: i16, value: i16) -> Key {
        Key { column, strategy: pg_sys::BTEqualStrategyNumber, procedure: pg_sys::F_INT2EQ, value: value.into() }
    }
    pub fn smallint_is_above(column: i16, value: i16) -> Key {
        Key { column, strategy: pg_sys::BTGreaterStrategyNumber, procedure: pg_sys::F_INT2GT, value: value.into() }
    }
    pub fn uuid_is(column: i16, value: Uuid) -> Key {
        Key { column, strategy: pg_sys::BTEqualStrategyNumber, procedure: pg_sys::F_UUID_EQ, value: value.into() }
    }
    pub fn timestamp_is(column: i16, value: Timestamp) -> Key {
        Key { column, strategy: pg_sys::BTEqualStrategyNumber, procedure: pg_sys::F_TIMESTAMPTZ_EQ, value: value.into() }
    }
    pub fn timestamp_is_above(column: i16, value: Timestamp) -> Key {
        Key { column, strategy: pg_sys::BTGreaterStrategyNumber, procedure: pg_sys::F_TIMESTAMPTZ_GT, value: value.into() }
    }
    pub fn uuid_is_at_least(column: i16, value: Uuid) -> Key {
        Key { column, strategy: pg_sys::BTGreaterEqualStrategyNumber, procedure: pg_sys::F_UUID_GE, value: value.into() }
    }
    pub fn text_is(column: i16, value: &str) -> Key {
        Key { column, strategy: pg_sys::BTEqualStrategyNumber, procedure: pg_sys::F_TEXTEQ, value: value.into() }
    }
}

impl Table {
    fn open(name: &CStr, spec: &'static TableSpec, how: Use) -> Option<Table> {
        // SAFETY: Drop closes what is opened, or the abort after an ERROR. A partition is locked after its parent, as by a statement.
        unsafe {
            let parent = match spec.parent {
                Some(parent) => open_table(parent, how)?,
                None => null_mut(),
            };
            let Some(relation) = open_table(name, how) else {
                if !parent.is_null() {
                    pg_sys::table_close(parent, pg_sys::NoLock as pg_sys::LOCKMODE);
                }
                return None;
            };
            let table = Table { relation, parent, spec, shape: shape::shape(relation, parent, spec), how };
            if !table.shape.ordinary {
                return None;
            }
            // Raises if a subscriber could not follow, as the executor does.
            match how {
                Use::Update => pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_UPDATE),
                Use::Delete => pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_DELETE),
                Use::Read | Use::Insert => {}
            }
            Some(table)
        }
    }

    /// Visible rows in the order of an index; None when the index is not there or cannot be used now. Rows that come to satisfy the
    /// keys later, by our own writes too, are not among them.
    pub fn scan(&self, spec: &IndexSpec, keys: &[Key]) -> Option<Scan<'_>> {
        let oid = table_oid(spec.name);
        self.shape.indexes.iter().find(|index| index.oid == oid && index.fits(spec, self.spec.columns))?;
        let lock = self.how.lock();
        // SAFETY: an index of this table, which is locked; Scan's Drop closes what is opened, or the abort after an ERROR. The active
        // snapshot is the one that `direct` has pushed.
        unsafe {
            let index = pg_sys::index_open(oid, lock);
            if !shape::is_usable(index) {
                pg_sys::index_close(index, lock);
                return None;
            }
            let slot = pg_sys::table_slot_create(self.relation, null_mut());
            let (snapshot, count) = (pg_sys::GetActiveSnapshot(), keys.len().min(MAX_KEYS) as c_int);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(self.relation, index, snapshot, null_mut(), count, 0);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(self.relation, index, snapshot, count, 0);
            let mut opened = Scan { scan, index, slot, lock, table: PhantomData, descriptor: self.descriptor() };
            opened.restart(keys);
            Some(opened)
        }
    }

    fn form(&self, values: &[Param]) -> Result<(Values, pg_sys::HeapTuple), Error> {
        let mut row = Values::default();
        for (n, value) in values.iter().enumerate() {
            row.set(n, *value)?;
        }
        if values.len() != self.spec.columns.len() {
            return Err(Error::internal("a row has the wrong number of values"));
        }
        let tuple = row.form(self.descriptor());
        self.check_constraints(tuple);
        Ok((row, tuple))
    }

    /// Adds a row; one value per column.
    pub fn insert(&self, values: &[Param]) -> Result<(), Error> {
        let (row, tuple) = self.form(values)?;
        // SAFETY: the tuple was formed for this table, which is locked and open; heap_insert sets its place.
        unsafe {
            pg_sys::heap_insert(self.relation, tuple, pg_sys::GetCurrentCommandId(true), 0, null_mut());
            self.add_index_entries(&mut [(row, (*tuple).t_self)]);
            pg_sys::heap_freetuple(tuple);
        }
        Ok(())
    }

    /// Rows to be added together, with one WAL record a page.
    pub fn batch(&self) -> Batch<'_> {
        Batch { table: self, slots: Vec::new(), bytes: 0 }
    }

    /// Writes a new version of a row: the block that it is in now; None when somebody else has changed or locked the row since the
    /// snapshot. Waits for nobody.
    pub fn update_if_free(&self, row: &Row<'_>, changes: &[(usize, Param)]) -> Result<Option<u32>, Error> {
        let mut values = row.values;
        for (column, value) in changes {
            values.set(column.saturating_sub(1), *value)?;
        }
        let tuple = values.form(self.descriptor());
        self.check_constraints(tuple);
        // SAFETY: as for insert; the place is that of a row version seen by a scan of this table that still pins its page.
        unsafe {
            let done = self.heap_update_if_free(row.place, tuple);
            if done && u32::from((*(*tuple).t_data).t_infomask2) & pg_sys::HEAP_ONLY_TUPLE == 0 {
                self.add_index_entries(&mut [(values, (*tuple).t_self)]);
            }
            let block = block_of(&(*tuple).t_self);
            pg_sys::heap_freetuple(tuple);
            Ok(done.then_some(block))
        }
    }

    /// Without waiting heap_update does what is wanted, and saves the WAL record of a lock, but Postgres itself never calls it so and
    /// a server with assertions stops there. A row that looks taken may be locked by this very transaction: the lock tells.
    ///
    /// # Safety
    /// The tuple fits the table, and a row version is or was at this place.
    unsafe fn heap_update_if_free(&self, place: pg_sys::ItemPointerData, tuple: pg_sys::HeapTuple) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            if !*SERVER_HAS_ASSERTIONS {
                match self.heap_update(place, tuple, false) {
                    pg_sys::TM_Result::TM_Ok => return true,
                    pg_sys::TM_Result::TM_BeingModified => {}
                    _ => return false,
                }
            }
            self.lock_if_free(place) && self.heap_update(place, tuple, true) == pg_sys::TM_Result::TM_Ok
        }
    }

    /// # Safety
    /// As for heap_update_if_free.
    unsafe fn heap_update(
        &self,
        mut place: pg_sys::ItemPointerData,
        tuple: pg_sys::HeapTuple,
        wait: bool,
    ) -> pg_sys::TM_Result::Type {
        let (mut failure, mut lock_mode) = (pg_sys::TM_FailureData::default(), 0);
        #[cfg(not(feature = "pg15"))]
        let mut summarizing = pg_sys::TU_UpdateIndexes::TU_None;
        // SAFETY: the table is open and locked; the rest is the caller's promise.
        unsafe {
            pg_sys::heap_update(
                self.relation,
                &mut place,
                tuple,
                pg_sys::GetCurrentCommandId(true),
                null_mut(),
                wait,
                &mut failure,
                &mut lock_mode,
                #[cfg(not(feature = "pg15"))]
                &mut summarizing,
            )
        }
    }

    /// FOR UPDATE SKIP LOCKED.
    ///
    /// # Safety
    /// A row version is or was at this place.
    unsafe fn lock_if_free(&self, place: pg_sys::ItemPointerData) -> bool {
        let mut row = pg_sys::HeapTupleData { t_self: place, ..Default::default() };
        let (mut failure, mut buffer) = (pg_sys::TM_FailureData::default(), 0);
        // SAFETY: the table is open and locked; the page that heap_lock_tuple pins is let go at once.
        unsafe {
            let result = pg_sys::heap_lock_tuple(
                self.relation,
                &mut row,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleExclusive,
                pg_sys::LockWaitPolicy::LockWaitSkip,
                false,
                &mut buffer,
                &mut failure,
            );
            pg_sys::ReleaseBuffer(buffer);
            result == pg_sys::TM_Result::TM_Ok
        }
    }

    /// Deletes a row; false when somebody else has changed it since the snapshot. Waits for a transaction that is changing it.
    pub fn delete(&self, row: &Row<'_>) -> bool {
        let mut place = row.place;
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: as for update_if_free.
        unsafe {
            pg_sys::heap_delete(
                self.relation,
                &mut place,
                pg_sys::GetCurrentCommandId(true),
                null_mut(),
                true,
                &mut failure,
                false,
            ) == pg_sys::TM_Result::TM_Ok
        }
    }

    /// The number of the table's file, another one after it was written anew.
    pub fn file(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*(*self.relation).rd_rel).relfilenode }
    }

    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.relation).rd_id }
    }

    pub(super) fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is open.
        unsafe { (*self.relation).rd_att }
    }

    /// # Safety
    /// The values are those of the row versions of this table at these places, written by this command.
    unsafe fn add_index_entries(&self, rows: &mut [(Values, pg_sys::ItemPointerData)]) {
        for shape in &self.shape.indexes {
            // SAFETY: an index of this table. B-trees, and there are no others here, take nothing from the IndexInfo.
            unsafe {
                let index = pg_sys::index_open(shape.oid, self.how.lock());
                if (*(*index).rd_index).indisready {
                    let mut info = pg_sys::IndexInfo { type_: pg_sys::NodeTag::T_IndexInfo, ..Default::default() };
                    let check = if shape.unique {
                        pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                    } else {
                        pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                    };
                    for (values, place) in rows.iter_mut().filter(|(values, _)| values.satisfy(shape.predicate)) {
                        let mut keys = Values::default();
                        for (n, column) in shape.columns.iter().enumerate() {
                            keys.copy(n, values, column.saturating_sub(1));
                        }
                        pg_sys::index_insert(
                            index,
                            keys.datums.as_mut_ptr(),
                            keys.nulls.as_mut_ptr(),
                            place,
                            self.relation,
                            check,
                            false,
                            &mut info,
                        );
                    }
                }
                pg_sys::index_close(index, self.how.lock());
            }
        }
    }

    /// Evaluates the table's CHECK constraints in builds with debug assertions.
    fn check_constraints(&self, tuple: pg_sys::HeapTuple) {
        if !cfg!(debug_assertions) {
            return;
        }
        // SAFETY: a result relation, a slot and an executor state of this call's own, as COPY makes them; the tuple fits the table.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let mut relation = pg_sys::ResultRelInfo { type_: pg_sys::NodeTag::T_ResultRelInfo, ..Default::default() };
            pg_sys::InitResultRelInfo(&mut relation, self.relation, 1, null_mut(), 0);
            let slot = pg_sys::MakeSingleTupleTableSlot(self.descriptor(), &raw const pg_sys::TTSOpsHeapTuple);
            pg_sys::ExecStoreHeapTuple(tuple, slot, false);
            pg_sys::ExecConstraints(&mut relation, slot, state);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::FreeExecutorState(state);
        }
    }
}

/// Rows of one table, gathered to be added together. Those that were not flushed are dropped.
pub struct Batch<'t> {
    table: &'t Table,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    bytes: usize,
}

impl Batch<'_> {
    /// What COPY gathers before it writes.
    const ROWS: usize = 1_000;
    const BYTES: usize = 65_535;

    /// The values are copied.
    pub fn add(&mut self, values: &[Param]) -> Result<(), Error> {
        let (_, tuple) = self.table.form(values)?;
        // SAFETY: a slot for tuples of this table, which takes the tuple over.
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(self.table.descriptor(), &raw const pg_sys::TTSOpsHeapTuple);
            pg_sys::ExecStoreHeapTuple(tuple, slot, true);
            self.slots.push(slot);
            self.bytes = self.bytes.saturating_add((*tuple).t_len as usize);
        }
        if self.slots.len() >= Self::ROWS || self.bytes >= Self::BYTES {
            self.flush();
        }
        Ok(())
    }

    /// Writes what was gathered.
    pub fn flush(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        // SAFETY: as for insert; heap_multi_insert sets each slot's place. The tuples stay with their slots until these are dropped.
        unsafe {
            let (relation, descriptor) = (self.table.relation, self.table.descriptor());
            let count = self.slots.len() as c_int;
            let command = pg_sys::GetCurrentCommandId(true);
            // Toasted copies of rows are left behind.
            RowMemory::within_current()
                .hold(|| pg_sys::heap_multi_insert(relation, self.slots.as_mut_ptr(), count, command, 0, null_mut()));
            let mut rows: Vec<(Values, pg_sys::ItemPointerData)> = Vec::with_capacity(self.slots.len());
            for slot in &self.slots {
                let tuple = pg_sys::ExecFetchSlotHeapTuple(*slot, false, null_mut());
                let mut values = Values::default();
                pg_sys::heap_deform_tuple(tuple, descriptor, values.datums.as_mut_ptr(), values.nulls.as_mut_ptr());
                rows.push((values, (**slot).tts_tid));
            }
            self.table.add_index_entries(&mut rows);
            for slot in self.slots.drain(..) {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            self.bytes = 0;
        }
    }
}

fn block_of(place: &pg_sys::ItemPointerData) -> u32 {
    u32::from(place.ip_blkid.bi_hi) << 16 | u32::from(place.ip_blkid.bi_lo)
}

/// Rows in the order of an index.
pub struct Scan<'t> {
    scan: pg_sys::IndexScanDesc,
    index: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    lock: pg_sys::LOCKMODE,
    descriptor: pg_sys::TupleDesc,
    table: PhantomData<&'t ()>,
}

impl Scan<'_> {
    /// Begins again, with other keys, but as many.
    pub fn restart(&mut self, keys: &[Key]) {
        // SAFETY: the scan is open.
        debug_assert_eq!(keys.len() as c_int, unsafe { (*self.scan).numberOfKeys });
        // SAFETY: the scan and its index are open. The scan keys are copied by index_rescan; their collations are those of the
        // index, their procedures those of its default operator class.
        unsafe {
            let mut scan_keys = [pg_sys::ScanKeyData::default(); MAX_KEYS];
            for (scan_key, key) in scan_keys.iter_mut().zip(keys) {
                let collation = *(*self.index).rd_indcollation.offset(isize::from(key.column).saturating_sub(1));
                pg_sys::ScanKeyEntryInitialize(
                    scan_key,
                    0,
                    key.column,
                    key.strategy as _,
                    pg_sys::InvalidOid,
                    collation,
                    key.procedure.into(),
                    key.value.datum(),
                );
            }
            pg_sys::index_rescan(self.scan, scan_keys.as_mut_ptr(), keys.len().min(MAX_KEYS) as c_int, null_mut(), 0);
        }
    }

    /// The next row; it lives until the one after it is asked for.
    pub fn next_row(&mut self) -> Option<Row<'_>> {
        if self.advance() { Some(self.row()) } else { None }
    }

    /// Goes on to the next row; false when there is none.
    pub fn advance(&mut self) -> bool {
        // SAFETY: the scan and its slot are open.
        unsafe { pg_sys::index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) }
    }

    /// The row that `advance` has come to.
    pub fn row(&self) -> Row<'_> {
        // SAFETY: a fetched tuple lies in a page that the slot pins, and fits the table's descriptor.
        unsafe {
            let tuple = pg_sys::ExecFetchSlotHeapTuple(self.slot, false, null_mut());
            let mut values = Values::default();
            pg_sys::heap_deform_tuple(tuple, self.descriptor, values.datums.as_mut_ptr(), values.nulls.as_mut_ptr());
            Row { values, place: (*tuple).t_self, writer: (*(*tuple).t_data).t_choice.t_heap.t_xmin, scan: PhantomData }
        }
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in open_index; each is closed once.
            unsafe {
                pg_sys::index_endscan(self.scan);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_close(self.index, self.lock);
            }
        }
    }
}

/// Keys a scan may have.
const MAX_KEYS: usize = 4;

/// Was the server built with --enable-cassert?
static SERVER_HAS_ASSERTIONS: LazyLock<bool> = LazyLock::new(|| {
    // SAFETY: a preset setting; the string is read at once.
    unsafe {
        let value = pg_sys::GetConfigOption(c"debug_assertions".as_ptr(), true, false);
        !value.is_null() && CStr::from_ptr(value) == c"on"
    }
});
