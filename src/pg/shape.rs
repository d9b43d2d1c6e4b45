//! What a table must look like to be read and written without statements (super::heap), and whether it does.
//!
//! Everything here is read from the open relation once and kept until Postgres says that some relation has changed.

use super::spi::Type;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::rc::Rc;

pub const MAX_COLUMNS: usize = 32;

/// A table as sql/schema declares it.
pub struct TableSpec {
    pub columns: &'static [Column],
    /// The names of its CHECK constraints, sorted.
    pub checks: &'static [&'static CStr],
    /// For a partition: the table it belongs to.
    pub parent: Option<&'static CStr>,
}

pub struct Column {
    pub name: &'static str,
    pub kind: Type,
    pub nullable: bool,
}

/// An index as sql/schema declares it; columns by number, from 1. Ascending, with the default operators of their types.
pub struct IndexSpec {
    pub name: &'static CStr,
    pub columns: &'static [usize],
    pub predicate: Predicate,
}

/// The rows of a partial index. Columns count from 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Predicate {
    None,
    True(usize),
    Null(usize),
    NotNull(usize),
}

/// What was found.
pub struct Shape {
    /// The table is as its spec says, and nothing is attached to it that only the executor serves.
    pub ordinary: bool,
    pub indexes: Vec<IndexShape>,
}

pub struct IndexShape {
    pub oid: pg_sys::Oid,
    pub columns: Vec<usize>,
    pub unique: bool,
    pub predicate: Predicate,
    /// Ascending with NULLs last, each column under its own collation, in the families of B-tree operators given here.
    ascending: bool,
    families: Vec<pg_sys::Oid>,
}

impl IndexShape {
    pub fn fits(&self, spec: &IndexSpec, columns: &[Column]) -> bool {
        let families = spec.columns.iter().map(|n| columns.get(n.saturating_sub(1)).and_then(|column| family(column.kind)));
        self.ascending
            && self.columns == spec.columns
            && self.predicate == spec.predicate
            && families.eq(self.families.iter().copied().map(Some))
    }
}

/// The default family of B-tree operators of a type that an index of ours begins with (pg_opfamily.dat).
fn family(kind: Type) -> Option<pg_sys::Oid> {
    match kind {
        Type::SmallInt | Type::Int => Some(pg_sys::INTEGER_BTREE_FAM_OID),
        Type::Text => Some(pg_sys::TEXT_BTREE_FAM_OID),
        Type::Timestamp => Some(pg_sys::Oid::from(434)),
        Type::Uuid => Some(pg_sys::Oid::from(2968)),
        _ => None,
    }
}

/// Counts the invalidations this process has heard of. A shape is as old as the count it was read at.
struct Changes(Cell<u64>);
static CHANGES: Changes = Changes(Cell::new(0));

// SAFETY: a backend runs on one thread.
unsafe impl Sync for Changes {}

/// Called by Postgres at any time: neither allocates nor raises.
unsafe extern "C-unwind" fn changed(_: pg_sys::Datum, _: pg_sys::Oid) {
    CHANGES.0.set(CHANGES.0.get().wrapping_add(1));
}

/// The shape of a table.
///
/// # Safety
/// The relation is open and locked; for a partition the parent too, else it is null.
pub unsafe fn shape(relation: pg_sys::Relation, parent: pg_sys::Relation, spec: &TableSpec) -> Rc<Shape> {
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
    // SAFETY: the relation is open.
    let oid = unsafe { (*relation).rd_id };
    if let Some(shape) = KNOWN.with_borrow(|known| known.get(&oid).filter(|known| known.0 == count).map(|known| known.1.clone()))
    {
        return shape;
    }
    // SAFETY: the caller's promise.
    let shape = Rc::new(unsafe { read(relation, parent, spec) });
    KNOWN.with_borrow_mut(|known| known.insert(oid, (count, shape.clone())));
    shape
}

/// # Safety
/// As for `shape`.
unsafe fn read(relation: pg_sys::Relation, parent: pg_sys::Relation, spec: &TableSpec) -> Shape {
    // SAFETY: reads of open relations' descriptors.
    let mut ordinary = unsafe {
        is_plain(relation)
            && (*(*relation).rd_rel).relkind == pg_sys::RELKIND_RELATION as c_char
            && std::ptr::eq((*relation).rd_tableam, pg_sys::GetHeapamTableAmRoutine())
            && (*(*relation).rd_rel).relispartition == spec.parent.is_some()
            && !(*(*relation).rd_rel).relhassubclass
            && (parent.is_null() || is_plain(parent))
            && has_columns(relation, spec)
    };
    let mut indexes = Vec::new();
    // SAFETY: the list is ours to free; its indexes exist as long as the table is locked.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        for n in 0..list.as_ref().map_or(0, |list| list.length) {
            let oid = (*(*list).elements.offset(n as isize)).oid_value;
            let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            match read_index(oid, index, relation) {
                Some(shape) => indexes.push(shape),
                None => ordinary = false,
            }
            pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        }
        pg_sys::list_free(list);
    }
    Shape { ordinary, indexes }
}

/// No trigger, no rule, no row security.
///
/// # Safety
/// The relation is open.
unsafe fn is_plain(relation: pg_sys::Relation) -> bool {
    // SAFETY: reads of the open relation's descriptor.
    unsafe { (*relation).trigdesc.is_null() && (*relation).rd_rules.is_null() && !(*(*relation).rd_rel).relrowsecurity }
}

/// # Safety
/// The relation is open.
unsafe fn has_columns(relation: pg_sys::Relation, spec: &TableSpec) -> bool {
    // SAFETY: reads of the open relation's descriptor.
    unsafe {
        let constraints = (*(*relation).rd_att).constr.as_ref().filter(|constraints| constraints.num_check > 0);
        let checks = constraints.map_or(&[][..], |all| std::slice::from_raw_parts(all.check, usize::from(all.num_check)));
        let mut checks: Vec<&CStr> = checks.iter().map(|check| CStr::from_ptr(check.ccname)).collect();
        checks.sort();
        let open = pgrx::PgRelation::from_pg(relation);
        let columns = open.tuple_desc();
        checks == spec.checks
            && columns.len() == spec.columns.len()
            && columns.len() <= MAX_COLUMNS
            && columns.iter().zip(spec.columns).all(|(column, expected)| {
                column.name() == expected.name
                    && column.atttypid == expected.kind.oid()
                    && column.attnotnull != expected.nullable
                    && column.attgenerated == 0
                    && !column.attisdropped
            })
    }
}

/// Do the index's columns have the collations of the table's?
///
/// # Safety
/// Both are open.
unsafe fn has_collations_of(table: pg_sys::Relation, index: pg_sys::Relation, keys: usize) -> bool {
    // SAFETY: reads of the open descriptors; rd_indcollation and indkey have as many entries as there are keys, at least.
    unsafe {
        let collations = std::slice::from_raw_parts((*index).rd_indcollation, keys);
        let columns = (*(*index).rd_index).indkey.values.as_slice(keys);
        let open = pgrx::PgRelation::from_pg(table);
        let descriptor = open.tuple_desc();
        collations.iter().zip(columns).all(|(collation, column)| {
            let column = usize::try_from(*column).ok().and_then(|column| descriptor.get(column.saturating_sub(1)));
            column.is_some_and(|column| column.attcollation == *collation)
        })
    }
}

/// None for an index of a sort that is not written here.
///
/// # Safety
/// Index and table are open and locked.
unsafe fn read_index(oid: pg_sys::Oid, index: pg_sys::Relation, table: pg_sys::Relation) -> Option<IndexShape> {
    // SAFETY: reads of the open index's descriptor; indkey has indnatts entries, indoption and rd_opfamily have indnkeyatts.
    unsafe {
        let row = &*(*index).rd_index;
        if (*(*index).rd_rel).relam != pg_sys::BTREE_AM_OID
            || row.indisexclusion
            || !row.indimmediate
            || !pg_sys::RelationGetIndexExpressions(index).is_null()
        {
            return None;
        }
        let keys = usize::try_from(row.indnkeyatts).ok()?;
        let columns = row.indkey.values.as_slice(usize::try_from(row.indnatts).ok()?);
        let columns: Option<Vec<usize>> = columns.iter().map(|column| usize::try_from(*column).ok().filter(|n| *n > 0)).collect();
        let options = std::slice::from_raw_parts((*index).rd_indoption, keys);
        let families = std::slice::from_raw_parts((*index).rd_opfamily, keys);
        Some(IndexShape {
            oid,
            columns: columns?,
            unique: row.indisunique,
            predicate: read_predicate(index)?,
            ascending: options.iter().all(|option| *option == 0) && has_collations_of(table, index, keys),
            families: families.to_vec(),
        })
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
pub unsafe fn is_usable(index: pg_sys::Relation) -> bool {
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
