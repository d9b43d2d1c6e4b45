//! Reading and writing rows of our own tables without the executor, for the calls that run thousands of times a second.
//!
//! A statement that touches one row spends most of its time in being started: expressions are compiled, index predicates prepared,
//! CHECK constraints read from their text. Here the same is done with the server's own row and index functions, in the order in which
//! the executor calls them: lock and open the table, find the row through an index with a new snapshot, write the row version, write
//! the index entries unless it is a heap-only tuple.
//!
//! It is for ordinary tables in ordinary transactions only. For anything else (a trigger, a rule, an index on an expression, another
//! table access method, an added column, REPEATABLE READ, a read-only transaction, a standby) there is no `Access` or no `Table`, and
//! the caller runs its statement instead. CHECK constraints are not evaluated, except in builds with debug assertions: what is
//! written is of our own making, never a user's row.

use super::datum::{self, Text};
use super::spi::Param;
use super::switch::table_oid;
use crate::clock::Timestamp;
use crate::error::Error;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::rc::Rc;
use uuid::Uuid;

const MAX_COLUMNS: usize = 32;
const LOCK: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;

/// The right to use tables this way, with a snapshot of now.
pub struct Access {
    snapshot: pg_sys::Snapshot,
}

/// Runs `body` with a new snapshot. None, from here or from `body`, before anything is written: use statements.
pub fn direct<T>(body: impl FnOnce(&Access) -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    // SAFETY: inside a transaction, as every call from SQL is. What is pushed is popped here, or by the abort after an ERROR.
    unsafe {
        if pg_sys::XactIsoLevel > pg_sys::XACT_READ_COMMITTED as c_int || pg_sys::XactReadOnly || pg_sys::IsInParallelMode() {
            return Ok(None);
        }
        // As for a statement in a volatile function: it sees what was written before it, and what follows sees its rows.
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let outcome = body(&Access { snapshot: pg_sys::GetActiveSnapshot() });
        pg_sys::PopActiveSnapshot();
        pg_sys::CommandCounterIncrement();
        outcome
    }
}

impl Access {
    /// A table of the extension with this number of columns; locked until the transaction ends, as a writing statement does.
    pub fn table(&self, name: &CStr, columns: usize) -> Option<Table<'_>> {
        let oid = table_oid(name);
        if oid == pg_sys::InvalidOid {
            return None;
        }
        // SAFETY: the reference is closed by Table's Drop, or by the abort after an ERROR; null if the table is just being dropped.
        let relation = unsafe { pg_sys::try_table_open(oid, LOCK) };
        if relation.is_null() {
            return None;
        }
        let table = Table { relation, shape: shape(oid, relation), access: self };
        (table.shape.ordinary && table.shape.columns == columns).then_some(table)
    }
}

/// An open table.
pub struct Table<'a> {
    relation: pg_sys::Relation,
    shape: Rc<Shape>,
    access: &'a Access,
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in Access::table. The lock stays.
            unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
        }
    }
}

/// A condition on the leading columns of an index.
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
    pub fn int_is_above(column: i16, value: i32) -> Key {
        Key { column, strategy: pg_sys::BTGreaterStrategyNumber, procedure: pg_sys::F_INT4GT, value: value.into() }
    }
    pub fn time_is_at_most(column: i16, value: Timestamp) -> Key {
        Key { column, strategy: pg_sys::BTLessEqualStrategyNumber, procedure: pg_sys::F_TIMESTAMPTZ_LE, value: value.into() }
    }
    pub fn uuid_is(column: i16, value: Uuid) -> Key {
        Key { column, strategy: pg_sys::BTEqualStrategyNumber, procedure: pg_sys::F_UUID_EQ, value: value.into() }
    }
    pub fn text_is(column: i16, value: &str) -> Key {
        Key { column, strategy: pg_sys::BTEqualStrategyNumber, procedure: pg_sys::F_TEXTEQ, value: value.into() }
    }
}

impl Table<'_> {
    /// Visible rows in the order of an index; None when the index cannot be used now. Rows that come to satisfy the keys later, by
    /// our own writes too, are not among them.
    pub fn scan(&self, index: &CStr, keys: &[Key]) -> Option<Scan<'_>> {
        self.open_index(index, keys, false)
    }

    /// The integer in a column of the first index entry, whether its row is visible or not. Outer None: the index cannot be used now.
    pub fn first_entry(&self, index: &CStr, keys: &[Key], column: usize) -> Option<Option<i32>> {
        Some(self.open_index(index, keys, true)?.first_entry(column))
    }

    fn open_index(&self, name: &CStr, keys: &[Key], entries: bool) -> Option<Scan<'_>> {
        let oid = table_oid(name);
        if !self.shape.indexes.iter().any(|index| index.oid == oid) {
            return None;
        }
        // SAFETY: an index of this table, which is locked; Scan's Drop closes both, or the abort after an ERROR. The scan keys are
        // copied by index_rescan; the type and collation are those of the index, the procedures those of its default operator class.
        unsafe {
            let index = pg_sys::index_open(oid, LOCK);
            if !is_usable(index) {
                pg_sys::index_close(index, LOCK);
                return None;
            }
            let slot = pg_sys::table_slot_create(self.relation, null_mut());
            let count = keys.len() as c_int;
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(self.relation, index, self.access.snapshot, null_mut(), count, 0);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(self.relation, index, self.access.snapshot, count, 0);
            (*scan).xs_want_itup = entries;
            let mut scan_keys = [pg_sys::ScanKeyData::default(); 4];
            for (scan_key, key) in scan_keys.iter_mut().zip(keys) {
                let collation = *(*index).rd_indcollation.offset(isize::from(key.column).saturating_sub(1));
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
            pg_sys::index_rescan(scan, scan_keys.as_mut_ptr(), count, null_mut(), 0);
            Some(Scan { scan, index, slot, table: PhantomData, descriptor: (*self.relation).rd_att })
        }
    }

    /// Adds a row; one value per column.
    pub fn insert(&self, values: &[Param]) -> Result<(), Error> {
        let mut row = Values::default();
        for (n, value) in values.iter().enumerate() {
            row.set(n, *value)?;
        }
        if values.len() != self.shape.columns {
            return Err(Error::internal("a row has the wrong number of values"));
        }
        let tuple = row.form((*self).descriptor());
        self.check_constraints(tuple);
        // SAFETY: the tuple was formed for this table, which is locked and open; heap_insert sets its place.
        unsafe {
            pg_sys::heap_insert(self.relation, tuple, pg_sys::GetCurrentCommandId(true), 0, null_mut());
            self.add_index_entries(&mut row, (*tuple).t_self);
            pg_sys::heap_freetuple(tuple);
        }
        Ok(())
    }

    /// Writes a new version of a row; false when somebody else has changed or locked the row since the snapshot. Waits for nobody.
    pub fn update_if_free(&self, row: &Row<'_>, changes: &[(usize, Param)]) -> Result<bool, Error> {
        let mut values = row.values;
        for (column, value) in changes {
            values.set(column.saturating_sub(1), *value)?;
        }
        let tuple = values.form(self.descriptor());
        self.check_constraints(tuple);
        // SAFETY: as for insert; the place is that of a row version seen by a scan of this table that still pins its page.
        unsafe {
            let mut result = self.heap_update(row.place, tuple, false);
            // A lock of our own, taken earlier in this transaction: there is nobody to wait for.
            if let Err(holder) = result
                && pg_sys::TransactionIdIsCurrentTransactionId(holder)
            {
                result = self.heap_update(row.place, tuple, true);
            }
            if result.is_ok() && u32::from((*(*tuple).t_data).t_infomask2) & pg_sys::HEAP_ONLY_TUPLE == 0 {
                self.add_index_entries(&mut values, (*tuple).t_self);
            }
            pg_sys::heap_freetuple(tuple);
            Ok(result.is_ok())
        }
    }

    /// Err: the transaction that changed or locked the row.
    ///
    /// # Safety
    /// The tuple fits the table, and a row version is or was at this place.
    unsafe fn heap_update(
        &self,
        mut place: pg_sys::ItemPointerData,
        tuple: pg_sys::HeapTuple,
        wait: bool,
    ) -> Result<(), pg_sys::TransactionId> {
        let (mut failure, mut lock_mode) = (pg_sys::TM_FailureData::default(), 0);
        #[cfg(not(feature = "pg15"))]
        let mut summarizing = pg_sys::TU_UpdateIndexes::TU_None;
        // SAFETY: the table is open and locked; the rest is the caller's promise.
        let result = unsafe {
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
        };
        if result == pg_sys::TM_Result::TM_Ok { Ok(()) } else { Err(failure.xmax) }
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

    fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is open.
        unsafe { (*self.relation).rd_att }
    }

    /// # Safety
    /// `values` are those of the row version of this table at `place`, written by this command.
    unsafe fn add_index_entries(&self, values: &mut Values, mut place: pg_sys::ItemPointerData) {
        for shape in &self.shape.indexes {
            if !shape.predicate.holds(values) {
                continue;
            }
            let mut keys = Values::default();
            for (n, column) in shape.columns.iter().enumerate() {
                keys.copy(n, values, usize::from(*column).saturating_sub(1));
            }
            // SAFETY: an index of this table. B-trees, and there are no others here, take nothing from the IndexInfo.
            unsafe {
                let index = pg_sys::index_open(shape.oid, LOCK);
                if (*(*index).rd_index).indisready {
                    let mut info = pg_sys::IndexInfo { type_: pg_sys::NodeTag::T_IndexInfo, ..Default::default() };
                    pg_sys::index_insert(
                        index,
                        keys.datums.as_mut_ptr(),
                        keys.nulls.as_mut_ptr(),
                        &mut place,
                        self.relation,
                        if shape.unique {
                            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                        } else {
                            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                        },
                        false,
                        &mut info,
                    );
                }
                pg_sys::index_close(index, LOCK);
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

/// The values of one row.
#[derive(Clone, Copy)]
struct Values {
    datums: [pg_sys::Datum; MAX_COLUMNS],
    nulls: [bool; MAX_COLUMNS],
}

impl Default for Values {
    fn default() -> Self {
        Values { datums: [pg_sys::Datum::from(0); MAX_COLUMNS], nulls: [true; MAX_COLUMNS] }
    }
}

impl Values {
    /// Columns count from 0 here.
    fn get(&self, column: usize) -> Option<pg_sys::Datum> {
        let is_null = *self.nulls.get(column)?;
        self.datums.get(column).copied().filter(|_| !is_null)
    }

    fn set(&mut self, column: usize, value: Param) -> Result<(), Error> {
        match (self.datums.get_mut(column), self.nulls.get_mut(column)) {
            (Some(datum), Some(null)) => {
                (*datum, *null) = (value.datum(), value.is_null());
                Ok(())
            }
            _ => Err(Error::internal("a table has too many columns")),
        }
    }

    fn copy(&mut self, column: usize, from: &Values, its: usize) {
        let value = Param::from_datum(from.get(its));
        // Both have MAX_COLUMNS columns.
        _ = self.set(column, value);
    }

    fn form(&mut self, descriptor: pg_sys::TupleDesc) -> pg_sys::HeapTuple {
        // SAFETY: both arrays have at least as many entries as the descriptor has columns (Table::open), of the columns' types.
        unsafe { pg_sys::heap_form_tuple(descriptor, self.datums.as_mut_ptr(), self.nulls.as_mut_ptr()) }
    }
}

/// Rows in the order of an index.
pub struct Scan<'t> {
    scan: pg_sys::IndexScanDesc,
    index: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    descriptor: pg_sys::TupleDesc,
    table: PhantomData<&'t ()>,
}

impl Scan<'_> {
    /// The next row; it lives until the one after it is asked for.
    pub fn next_row(&mut self) -> Option<Row<'_>> {
        // SAFETY: the scan is open; a fetched tuple lies in a page that the slot pins, and fits the table's descriptor.
        unsafe {
            if !pg_sys::index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                return None;
            }
            let tuple = pg_sys::ExecFetchSlotHeapTuple(self.slot, false, null_mut());
            let mut values = Values::default();
            pg_sys::heap_deform_tuple(tuple, self.descriptor, values.datums.as_mut_ptr(), values.nulls.as_mut_ptr());
            Some(Row { values, place: (*tuple).t_self, scan: PhantomData })
        }
    }

    fn first_entry(&mut self, column: usize) -> Option<i32> {
        let mut values = Values::default();
        // SAFETY: opened with xs_want_itup, so that the entry is there when a place was found; fewer columns than MAX_COLUMNS.
        unsafe {
            if pg_sys::index_getnext_tid(self.scan, pg_sys::ScanDirection::ForwardScanDirection).is_null() {
                return None;
            }
            pg_sys::index_deform_tuple(
                (*self.scan).xs_itup,
                (*self.scan).xs_itupdesc,
                values.datums.as_mut_ptr(),
                values.nulls.as_mut_ptr(),
            );
        }
        values.get(column.saturating_sub(1)).map(|datum| datum.value() as i32)
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in open_index; each is closed once.
            unsafe {
                pg_sys::index_endscan(self.scan);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_close(self.index, LOCK);
            }
        }
    }
}

/// A row version as a scan saw it. Columns count from 1.
pub struct Row<'s> {
    values: Values,
    place: pg_sys::ItemPointerData,
    scan: PhantomData<&'s ()>,
}

impl Row<'_> {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        self.values.get(column.saturating_sub(1))
    }

    /// The value as it is, to be put somewhere else while the row lives.
    pub fn value(&self, column: usize) -> Param {
        Param::from_datum(self.datum(column))
    }

    pub fn boolean(&self, column: usize) -> Option<bool> {
        self.datum(column).map(|datum| datum.value() & 0xff != 0)
    }

    pub fn int(&self, column: usize) -> Option<i32> {
        self.datum(column).map(|datum| datum.value() as i32)
    }

    pub fn bigint(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    pub fn timestamp(&self, column: usize) -> Option<Timestamp> {
        self.bigint(column).map(Timestamp)
    }

    /// A `"char"` column.
    pub fn letter(&self, column: usize) -> Option<u8> {
        self.datum(column).map(|datum| datum.value() as u8)
    }

    pub fn uuid(&self, column: usize) -> Option<Uuid> {
        // SAFETY: the callers name columns of type uuid.
        self.datum(column).map(|datum| unsafe { datum::uuid(datum) })
    }

    pub fn text(&self, column: usize) -> Option<Text> {
        // SAFETY: the callers name columns of type text.
        self.datum(column).map(|datum| unsafe { Text::from_datum(datum) })
    }

    /// A text field of the last element of a jsonb array column.
    pub fn last_element_field(&self, column: usize, field: &str) -> Param {
        // SAFETY: the callers name columns of type jsonb; both functions take what they are given and may answer NULL.
        unsafe {
            let last = self.datum(column).and_then(|array| {
                pgrx::direct_function_call_as_datum(pg_sys::jsonb_array_element, &[Some(array), Some(pg_sys::Datum::from(-1i32))])
            });
            Param::from_datum(last.and_then(|last| {
                let field = Param::from(field).into_datum();
                pgrx::direct_function_call_as_datum(pg_sys::jsonb_object_field_text, &[Some(last), field])
            }))
        }
    }
}

/// What of a table and its indexes stays the same until Postgres says otherwise.
struct Shape {
    ordinary: bool,
    columns: usize,
    indexes: Vec<IndexShape>,
}

struct IndexShape {
    oid: pg_sys::Oid,
    /// Of the table, from 1.
    columns: Vec<u16>,
    unique: bool,
    predicate: Predicate,
}

enum Predicate {
    None,
    True(usize),
    Null(usize),
    NotNull(usize),
}

impl Predicate {
    fn holds(&self, values: &Values) -> bool {
        match self {
            Predicate::None => true,
            Predicate::True(column) => values.get(column.saturating_sub(1)).is_some_and(|datum| datum.value() & 0xff != 0),
            Predicate::Null(column) => values.get(column.saturating_sub(1)).is_none(),
            Predicate::NotNull(column) => values.get(column.saturating_sub(1)).is_some(),
        }
    }
}

/// Counts the invalidations this process has heard of. A shape is as old as the count it was read at.
static CHANGES: Changes = Changes(Cell::new(0));
struct Changes(Cell<u64>);
// SAFETY: a backend runs on one thread.
unsafe impl Sync for Changes {}

/// Called by Postgres at any time: neither allocates nor raises.
unsafe extern "C-unwind" fn changed(_: pg_sys::Datum, _: pg_sys::Oid) {
    CHANGES.0.set(CHANGES.0.get().wrapping_add(1));
}

/// The shape of an open table, read again after any table of this session's cache has changed.
fn shape(oid: pg_sys::Oid, relation: pg_sys::Relation) -> Rc<Shape> {
    thread_local! {
        static KNOWN: RefCell<HashMap<pg_sys::Oid, (u64, Rc<Shape>)>> = RefCell::new(HashMap::new());
    }
    if CHANGES.0.get() == 0 {
        CHANGES.0.set(1);
        // SAFETY: once per process; the callback lives as long as the process.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::from(0)) };
    }
    // Counted before it is read: what changes meanwhile makes it old.
    let count = CHANGES.0.get();
    if let Some(shape) = KNOWN.with_borrow(|known| known.get(&oid).filter(|known| known.0 == count).map(|known| known.1.clone()))
    {
        return shape;
    }
    // SAFETY: the relation is open and locked.
    let shape = Rc::new(unsafe { read_shape(relation) });
    KNOWN.with_borrow_mut(|known| known.insert(oid, (count, shape.clone())));
    shape
}

/// # Safety
/// The relation is open and locked.
unsafe fn read_shape(relation: pg_sys::Relation) -> Shape {
    // SAFETY: reads of the open relation's descriptor.
    let (mut ordinary, columns) = unsafe {
        let (class, descriptor) = (&*(*relation).rd_rel, &*(*relation).rd_att);
        let columns = usize::try_from(descriptor.natts).unwrap_or(0);
        let generated = descriptor.constr.as_ref().is_some_and(|constraints| constraints.has_generated_stored);
        let dropped = pgrx::PgRelation::from_pg(relation).tuple_desc().iter().any(|column| column.attisdropped);
        let ordinary = class.relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
            && std::ptr::eq((*relation).rd_tableam, pg_sys::GetHeapamTableAmRoutine())
            && (*relation).trigdesc.is_null()
            && (*relation).rd_rules.is_null()
            && !class.relrowsecurity
            && !generated
            && !dropped
            && columns <= MAX_COLUMNS;
        (ordinary, columns)
    };
    let mut indexes = Vec::new();
    // SAFETY: the list is ours to free; its indexes exist as long as the table is locked.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        for n in 0..list.as_ref().map_or(0, |list| list.length) {
            let oid = (*(*list).elements.offset(n as isize)).oid_value;
            let index = pg_sys::index_open(oid, LOCK);
            match read_index(oid, index) {
                Some(shape) => indexes.push(shape),
                None => ordinary = false,
            }
            pg_sys::index_close(index, LOCK);
        }
        pg_sys::list_free(list);
    }
    Shape { ordinary, columns, indexes }
}

/// None for an index of a sort that is not written here.
///
/// # Safety
/// The index is open and locked.
unsafe fn read_index(oid: pg_sys::Oid, index: pg_sys::Relation) -> Option<IndexShape> {
    // SAFETY: reads of the open index's descriptor; indkey has indnatts entries.
    unsafe {
        let row = &*(*index).rd_index;
        if (*(*index).rd_rel).relam != pg_sys::BTREE_AM_OID
            || row.indisexclusion
            || !row.indimmediate
            || !pg_sys::RelationGetIndexExpressions(index).is_null()
        {
            return None;
        }
        let columns = row.indkey.values.as_slice(usize::try_from(row.indnatts).ok()?);
        let columns: Option<Vec<u16>> = columns.iter().map(|column| u16::try_from(*column).ok().filter(|n| *n > 0)).collect();
        Some(IndexShape { oid, columns: columns?, unique: row.indisunique, predicate: read_predicate(index)? })
    }
}

/// # Safety
/// The index is open and locked.
unsafe fn read_predicate(index: pg_sys::Relation) -> Option<Predicate> {
    // SAFETY: a list of expression nodes whose tags say what they are.
    unsafe {
        let Some(predicate) = pg_sys::RelationGetIndexPredicate(index).as_ref() else { return Some(Predicate::None) };
        let node: *mut pg_sys::Node = (predicate.length == 1).then(|| (*predicate.elements).ptr_value.cast())?;
        match (*node).type_ {
            pg_sys::NodeTag::T_Var => Some(Predicate::True(column_of(node)?)),
            pg_sys::NodeTag::T_NullTest => {
                let test = &*node.cast::<pg_sys::NullTest>();
                let column = column_of(test.arg.cast())?;
                match test.nulltesttype {
                    _ if test.argisrow => None,
                    pg_sys::NullTestType::IS_NULL => Some(Predicate::Null(column)),
                    _ => Some(Predicate::NotNull(column)),
                }
            }
            _ => None,
        }
    }
}

/// # Safety
/// A valid expression node.
unsafe fn column_of(node: *mut pg_sys::Node) -> Option<usize> {
    // SAFETY: the tag says what the node is.
    unsafe {
        let is_column = (*node).type_ == pg_sys::NodeTag::T_Var;
        is_column.then(|| usize::try_from((*node.cast::<pg_sys::Var>()).varattno).ok()).flatten().filter(|column| *column > 0)
    }
}

/// Is the index complete, and not newer than this transaction's view? (The planner asks the same.)
///
/// # Safety
/// The index is open.
unsafe fn is_usable(index: pg_sys::Relation) -> bool {
    // SAFETY: reads of the open index's descriptor; rd_indextuple is its row of pg_index.
    unsafe {
        let row = &*(*index).rd_index;
        if !row.indisvalid || !row.indcheckxmin {
            return row.indisvalid;
        }
        let header = &*(*(*index).rd_indextuple).t_data;
        let frozen = u32::from(header.t_infomask) & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN;
        frozen || pg_sys::TransactionIdPrecedes(header.t_choice.t_heap.t_xmin, pg_sys::TransactionXmin)
    }
}
