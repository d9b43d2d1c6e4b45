//! The values of one row of a table that is read and written without statements (super::heap).

use super::datum::Text;
use super::shape::{MAX_COLUMNS, Predicate};
use super::spi::Param;
use crate::clock::Timestamp;
use crate::error::Error;
use pgrx::pg_sys;
use std::marker::PhantomData;
use uuid::Uuid;

/// The values of one row.
#[derive(Clone, Copy)]
pub(super) struct Values {
    pub(super) datums: [pg_sys::Datum; MAX_COLUMNS],
    pub(super) nulls: [bool; MAX_COLUMNS],
}

impl Default for Values {
    fn default() -> Self {
        Values { datums: [pg_sys::Datum::from(0); MAX_COLUMNS], nulls: [true; MAX_COLUMNS] }
    }
}

impl Values {
    /// Columns count from 0 here.
    pub(super) fn get(&self, column: usize) -> Option<pg_sys::Datum> {
        let is_null = *self.nulls.get(column)?;
        self.datums.get(column).copied().filter(|_| !is_null)
    }

    pub(super) fn set(&mut self, column: usize, value: Param) -> Result<(), Error> {
        match (self.datums.get_mut(column), self.nulls.get_mut(column)) {
            (Some(datum), Some(null)) => {
                (*datum, *null) = (value.datum(), value.is_null());
                Ok(())
            }
            _ => Err(Error::internal("a table has too many columns")),
        }
    }

    pub(super) fn copy(&mut self, column: usize, from: &Values, its: usize) {
        let value = Param::from_datum(from.get(its));
        // Both have MAX_COLUMNS columns.
        _ = self.set(column, value);
    }

    pub(super) fn satisfy(&self, predicate: Predicate) -> bool {
        match predicate {
            Predicate::None => true,
            Predicate::True(column) => self.get(column.saturating_sub(1)).is_some_and(|datum| datum.value() & 0xff != 0),
            Predicate::Null(column) => self.get(column.saturating_sub(1)).is_none(),
            Predicate::NotNull(column) => self.get(column.saturating_sub(1)).is_some(),
        }
    }

    pub(super) fn form(&mut self, descriptor: pg_sys::TupleDesc) -> pg_sys::HeapTuple {
        // SAFETY: both arrays have at least as many entries as the descriptor has columns (the spec), of the columns' types.
        unsafe { pg_sys::heap_form_tuple(descriptor, self.datums.as_mut_ptr(), self.nulls.as_mut_ptr()) }
    }
}

/// A row version as a scan saw it. Columns count from 1.
pub struct Row<'s> {
    pub(super) values: Values,
    pub(super) place: pg_sys::ItemPointerData,
    pub(super) writer: pg_sys::TransactionId,
    pub(super) scan: PhantomData<&'s ()>,
}

impl Row<'_> {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        self.values.get(column.saturating_sub(1))
    }

    /// Is it of this transaction's own making?
    pub fn is_own(&self) -> bool {
        // SAFETY: a question about this backend's transaction.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId(self.writer) }
    }

    /// The value as it is, to be put somewhere else while the row lives.
    pub fn value(&self, column: usize) -> Param {
        Param::from_datum(self.datum(column))
    }

    pub fn boolean(&self, column: usize) -> Option<bool> {
        self.datum(column).map(|datum| datum.value() & 0xff != 0)
    }

    /// A smallint's datum is that of the same int.
    pub fn int(&self, column: usize) -> Option<i32> {
        self.datum(column).map(|datum| datum.value() as i32)
    }

    pub fn bigint(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    pub fn uuid(&self, column: usize) -> Option<Uuid> {
        // SAFETY: the callers name columns of type uuid.
        self.datum(column).map(|datum| unsafe { super::datum::uuid(datum) })
    }

    pub fn timestamp(&self, column: usize) -> Option<Timestamp> {
        self.bigint(column).map(Timestamp)
    }

    pub fn double(&self, column: usize) -> Option<f64> {
        self.datum(column).map(|datum| f64::from_bits(datum.value() as u64))
    }

    /// A `"char"` column.
    pub fn letter(&self, column: usize) -> Option<u8> {
        self.datum(column).map(|datum| datum.value() as u8)
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

/// Memory for what is made of one row, emptied before the next.
pub struct RowMemory(pg_sys::MemoryContext);

impl RowMemory {
    pub fn within_current() -> RowMemory {
        // SAFETY: a child of the current context, which is gone with it at the latest. The sizes are ALLOCSET_SMALL_SIZES.
        RowMemory(unsafe {
            pg_sys::AllocSetContextCreateInternal(pg_sys::CurrentMemoryContext, c"jobq row".as_ptr(), 0, 1024, 8 * 1024)
        })
    }

    /// Runs `body` with the memory of the time before emptied.
    pub fn hold<T>(&self, body: impl FnOnce() -> T) -> T {
        // SAFETY: after an ERROR the catcher's context is set again.
        unsafe {
            pg_sys::MemoryContextReset(self.0);
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = self.0;
            let outcome = body();
            pg_sys::CurrentMemoryContext = before;
            outcome
        }
    }
}

impl Drop for RowMemory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `within_current`, and not the current context.
            unsafe { pg_sys::MemoryContextDelete(self.0) };
        }
    }
}
