//! Running statements: each is prepared once per session, as a generic plan, and kept.

use super::call::RowSink;
use super::datum::{self, Interval, Jsonb, Text};
use super::handler::Parcel;
use super::switch::with_settings;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::rules::span::Span;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;
use uuid::Uuid;

/// The type of a parameter.
#[derive(Clone, Copy)]
pub enum Type {
    Bool,
    /// `"char"`
    Letter,
    SmallInt,
    Int,
    BigInt,
    Double,
    Text,
    Jsonb,
    Uuid,
    Timestamp,
    Oid,
    UuidArray,
    BigIntArray,
    TextArray,
}

impl Type {
    pub(super) fn oid(self) -> pg_sys::Oid {
        match self {
            Type::Bool => pg_sys::BOOLOID,
            Type::Letter => pg_sys::CHAROID,
            Type::SmallInt => pg_sys::INT2OID,
            Type::Int => pg_sys::INT4OID,
            Type::BigInt => pg_sys::INT8OID,
            Type::Double => pg_sys::FLOAT8OID,
            Type::Text => pg_sys::TEXTOID,
            Type::Jsonb => pg_sys::JSONBOID,
            Type::Uuid => pg_sys::UUIDOID,
            Type::Timestamp => pg_sys::TIMESTAMPTZOID,
            Type::Oid => pg_sys::OIDOID,
            Type::UuidArray => pg_sys::UUIDARRAYOID,
            Type::BigIntArray => pg_sys::INT8ARRAYOID,
            Type::TextArray => pg_sys::TEXTARRAYOID,
        }
    }
}

/// How a statement is planned, whatever the session has set. A statement keeps its plan for the whole session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Planner {
    /// Through an index, whatever the statistics say: a queue table is empty one moment and has a million rows the next, and a
    /// generic plan outlives both.
    ByIndex,
    /// As the planner likes: statements that may scan.
    Free,
}

impl Planner {
    /// Compiling one of our statements takes a hundred times as long as running it: no JIT.
    fn settings(self) -> &'static [(&'static CStr, &'static CStr)] {
        match self {
            Planner::ByIndex => &[
                (c"jit", c"off"),
                (c"enable_seqscan", c"off"),
                (c"enable_bitmapscan", c"off"),
                (c"enable_indexscan", c"on"),
                (c"enable_nestloop", c"on"),
                (c"enable_hashjoin", c"off"),
                (c"enable_mergejoin", c"off"),
            ],
            Planner::Free => &[(c"jit", c"off")],
        }
    }
}

/// A statement of sql/queries with the types of its parameters. Meant for statics.
pub struct Statement {
    sql: &'static str,
    types: &'static [Type],
    planner: Planner,
    plan: Cell<pg_sys::SPIPlanPtr>,
    /// The number Postgres gave the plan that was made under our settings.
    generation: Cell<c_int>,
}

// SAFETY: a backend runs on one thread, and pgrx refuses calls into Postgres from any other.
unsafe impl Sync for Statement {}

impl Statement {
    pub const fn new(sql: &'static str, types: &'static [Type], planner: Planner) -> Self {
        Statement { sql, types, planner, plan: Cell::new(std::ptr::null_mut()), generation: Cell::new(-1) }
    }

    fn plan(&self) -> Result<pg_sys::SPIPlanPtr, Error> {
        if self.plan.get().is_null() {
            let sql = CString::new(self.sql).map_err(|_| Error::internal("a statement has a zero byte"))?;
            let mut types: Vec<pg_sys::Oid> = self.types.iter().map(|t| t.oid()).collect();
            let count = c_int::try_from(types.len()).unwrap_or(c_int::MAX);
            // SAFETY: SPI is connected (only a Session gets here); the arguments are valid for the call, and SPI_keepplan moves the
            // finished plan to memory that lives as long as the session.
            unsafe {
                let plan =
                    pg_sys::SPI_prepare_cursor(sql.as_ptr(), count, types.as_mut_ptr(), pg_sys::CURSOR_OPT_GENERIC_PLAN as c_int);
                if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                    return Err(Error::internal("a statement could not be prepared"));
                }
                self.plan.set(plan);
            }
        }
        Ok(self.plan.get())
    }
}

/// One parameter or column value; `None` inside is NULL. Made in the current memory context.
#[derive(Clone, Copy)]
pub struct Param(Option<pg_sys::Datum>);

impl Param {
    pub const NULL: Param = Param(None);

    pub(super) fn datum(&self) -> pg_sys::Datum {
        self.0.unwrap_or(pg_sys::Datum::from(0))
    }

    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn from_datum(datum: Option<pg_sys::Datum>) -> Param {
        Param(datum)
    }

    /// A `"char"`.
    pub fn letter(letter: u8) -> Param {
        Param(Some(pg_sys::Datum::from(letter as i8)))
    }

    pub(super) fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0
    }

    /// What is told to people, at most so many bytes of it; in databases that are not in UTF-8 nothing but ASCII.
    pub fn told(text: &str, limit: usize) -> Param {
        // SAFETY: reads a setting of this backend.
        let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as c_int;
        let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let text = text.get(..end).unwrap_or_default();
        if is_utf8 || text.is_ascii() {
            return Param::from(text);
        }
        Param::from(text.replace(|c: char| !c.is_ascii(), "?").as_str())
    }

    /// Text from bytes in the database's encoding.
    pub fn bytes(bytes: &[u8]) -> Param {
        let len = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
        // SAFETY: pointer and length describe one slice, which is copied.
        Param(Some(pg_sys::Datum::from(unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), len) })))
    }
}

impl From<bool> for Param {
    fn from(value: bool) -> Self {
        Param(Some(pg_sys::Datum::from(value)))
    }
}
impl From<i16> for Param {
    fn from(value: i16) -> Self {
        Param(Some(pg_sys::Datum::from(i32::from(value))))
    }
}
impl From<i32> for Param {
    fn from(value: i32) -> Self {
        Param(Some(pg_sys::Datum::from(value)))
    }
}
impl From<i64> for Param {
    fn from(value: i64) -> Self {
        Param(Some(pg_sys::Datum::from(value)))
    }
}
impl From<f64> for Param {
    fn from(value: f64) -> Self {
        Param(Some(pg_sys::Datum::from(value.to_bits())))
    }
}
impl From<pg_sys::Oid> for Param {
    fn from(value: pg_sys::Oid) -> Self {
        Param(Some(pg_sys::Datum::from(value)))
    }
}
impl From<Timestamp> for Param {
    fn from(value: Timestamp) -> Self {
        value.0.into()
    }
}
impl From<Uuid> for Param {
    fn from(value: Uuid) -> Self {
        // SAFETY: palloc returns 16 writable bytes or raises.
        unsafe {
            let copy = pg_sys::palloc(16).cast::<[u8; 16]>();
            *copy = *value.as_bytes();
            Param(Some(pg_sys::Datum::from(copy)))
        }
    }
}
impl From<&str> for Param {
    fn from(value: &str) -> Self {
        Param::bytes(value.as_bytes())
    }
}
impl From<Text> for Param {
    fn from(value: Text) -> Self {
        Param(Some(value.datum()))
    }
}
impl From<Jsonb> for Param {
    fn from(value: Jsonb) -> Self {
        Param(Some(value.datum()))
    }
}
impl From<&[Uuid]> for Param {
    fn from(value: &[Uuid]) -> Self {
        Param(Some(datum::uuid_array(value)))
    }
}
impl From<&[i64]> for Param {
    fn from(value: &[i64]) -> Self {
        Param(Some(datum::bigint_array(value)))
    }
}
impl From<&[Text]> for Param {
    fn from(value: &[Text]) -> Self {
        Param(Some(datum::text_array(value)))
    }
}
impl From<&[String]> for Param {
    fn from(value: &[String]) -> Self {
        Param(Some(datum::string_array(value)))
    }
}
impl<T: Into<Param>> From<Option<T>> for Param {
    fn from(value: Option<T>) -> Self {
        value.map_or(Param::NULL, Into::into)
    }
}

/// An open SPI connection.
pub struct Session(PhantomData<*mut ()>);

/// Connects to SPI for the time of `body`. After an ERROR the transaction's abort closes the connection.
pub(super) fn connected<T>(body: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
    // SAFETY: paired with SPI_finish below; on unwinding AtEOXact_SPI does it.
    if unsafe { pg_sys::SPI_connect() } != pg_sys::SPI_OK_CONNECT as c_int {
        return Err(Error::internal("SPI is not available"));
    }
    let outcome = body(&Session(PhantomData));
    // SAFETY: connected above; every Rows borrowed the session and is gone.
    unsafe { pg_sys::SPI_finish() };
    outcome
}

/// Runs `body` with the rights of the caller, connected to SPI.
pub fn as_caller<T>(body: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
    connected(body)
}

/// Connects to SPI for the time of `body`, which may commit. Only in a procedure that was not called inside a transaction block.
pub fn non_atomic<T>(body: impl FnOnce(&mut Session) -> Result<T, Error>) -> Result<T, Error> {
    // SAFETY: as for `connected`.
    if unsafe { pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as c_int) } != pg_sys::SPI_OK_CONNECT as c_int {
        return Err(Error::internal("SPI is not available"));
    }
    let outcome = body(&mut Session(PhantomData));
    // SAFETY: connected above; every Rows borrowed the session and is gone.
    unsafe { pg_sys::SPI_finish() };
    outcome
}

impl Session {
    /// Ends the transaction and begins another one. Only for a session of `non_atomic`, outside the privilege switch.
    pub fn commit(&mut self) {
        // SAFETY: no Rows is alive, as they borrow the session. Under the switch an ERROR after this would leave the caller with the
        // owner's rights: `as_owner` gives its body a shared reference, which cannot commit.
        unsafe { pg_sys::SPI_commit() }
    }

    /// Runs a statement that may write; it sees everything committed before it started (READ COMMITTED).
    pub fn run(&self, statement: &Statement, params: &[Param]) -> Result<Rows<'_>, Error> {
        self.execute(statement, params, false)
    }

    /// Runs a statement with the caller's snapshot, as a STABLE function must.
    pub fn look(&self, statement: &Statement, params: &[Param]) -> Result<Rows<'_>, Error> {
        self.execute(statement, params, true)
    }

    /// Runs a statement that only reads and sees everything committed by now, at every isolation level.
    pub fn look_at_the_latest(&self, statement: &Statement, params: &[Param]) -> Result<Rows<'_>, Error> {
        if super::server::statements_see_new_commits() {
            return self.run(statement, params);
        }
        // SAFETY: inside a transaction; a raised ERROR pops the snapshot with the (sub)transaction.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            let rows = self.execute(statement, params, true);
            pg_sys::PopActiveSnapshot();
            rows
        }
    }

    fn execute(&self, statement: &Statement, params: &[Param], read_only: bool) -> Result<Rows<'_>, Error> {
        if params.len() != statement.types.len() {
            return Err(Error::internal("a statement got the wrong number of parameters"));
        }
        let plan = statement.plan()?;
        let mut values: Vec<pg_sys::Datum> = params.iter().map(Param::datum).collect();
        let nulls: Vec<c_char> = params.iter().map(|param| if param.is_null() { b'n' } else { b' ' } as c_char).collect();
        let mut run = || {
            // SAFETY: the plan was made for these parameter types; SPI is connected; SPI_processed and SPI_tuptable are set by the call.
            unsafe {
                let code = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0);
                if code < 0 {
                    return Err(Error::internal("a statement could not be run"));
                }
                Ok(Rows { table: pg_sys::SPI_tuptable, affected: pg_sys::SPI_processed, session: PhantomData })
            }
        };
        // The settings matter when the statement is planned: the first time, and after its tables or their statistics changed.
        if generation_in_use(plan) == Some(statement.generation.get()) {
            let outcome = run();
            // The news may have come with the statement's own locks: what was planned then is planned again the next time.
            if generation_in_use(plan) != Some(statement.generation.get()) {
                statement.generation.set(-1);
                discard_generic_plan(plan);
            }
            outcome
        } else {
            // A plan that was made without our settings, in an execution that failed, must not stay.
            discard_generic_plan(plan);
            let outcome = with_settings(statement.planner.settings(), run);
            statement.generation.set(generation_in_use(plan).unwrap_or(-1));
            outcome
        }
    }
}

/// The one source of a kept plan.
fn source_of(plan: pg_sys::SPIPlanPtr) -> Option<*mut pg_sys::CachedPlanSource> {
    // SAFETY: a kept plan; its list of sources lives as long as it does. One statement has one source.
    unsafe {
        let sources = pg_sys::SPI_plan_get_plan_sources(plan).as_ref()?;
        (sources.length == 1).then(|| (*sources.elements).ptr_value.cast())
    }
}

/// The number of the plan that will be used as it is; None if one has to be made first.
fn generation_in_use(plan: pg_sys::SPIPlanPtr) -> Option<c_int> {
    // SAFETY: the source and its generic plan live as long as the kept plan.
    unsafe {
        let source = source_of(plan)?.as_ref()?;
        let generic = source.gplan.as_ref()?;
        (source.is_valid && generic.is_valid).then_some(source.generation)
    }
}

/// Has the generic plan made again before it is used again, as an invalidation does.
fn discard_generic_plan(plan: pg_sys::SPIPlanPtr) {
    // SAFETY: as above; the flag is what Postgres's own invalidation callback sets.
    unsafe {
        if let Some(generic) = source_of(plan).and_then(|source| (*source).gplan.as_mut()) {
            generic.is_valid = false;
        }
    }
}

/// The rows a statement returned, or the number it changed. Columns count from 1.
pub struct Rows<'s> {
    table: *mut pg_sys::SPITupleTable,
    affected: u64,
    session: PhantomData<&'s Session>,
}

impl Rows<'_> {
    /// Rows returned, or changed by a statement without RETURNING.
    pub fn count(&self) -> usize {
        usize::try_from(self.affected).unwrap_or(usize::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.affected == 0
    }

    fn tuple(&self, row: usize) -> Option<pg_sys::HeapTuple> {
        if self.table.is_null() || row >= self.count() {
            return None;
        }
        // SAFETY: the tuple table has `affected` tuples (a statement with rows), and row is below that.
        Some(unsafe { *(*self.table).vals.add(row) })
    }

    fn datum(&self, row: usize, column: c_int) -> Option<pg_sys::Datum> {
        let tuple = self.tuple(row)?;
        let mut is_null = true;
        // SAFETY: the tuple belongs to this table; SPI_getbinval checks the column number.
        let datum = unsafe { pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column, &mut is_null) };
        (!is_null).then_some(datum)
    }

    pub fn boolean(&self, row: usize, column: c_int) -> Option<bool> {
        self.datum(row, column).map(|datum| datum.value() & 0xff != 0)
    }

    pub fn int(&self, row: usize, column: c_int) -> Option<i32> {
        self.datum(row, column).map(|datum| datum.value() as i32)
    }

    pub fn bigint(&self, row: usize, column: c_int) -> Option<i64> {
        self.datum(row, column).map(|datum| datum.value() as i64)
    }

    /// A `"char"` column.
    pub fn letter(&self, row: usize, column: c_int) -> Option<u8> {
        self.datum(row, column).map(|datum| datum.value() as u8)
    }

    pub fn timestamp(&self, row: usize, column: c_int) -> Option<Timestamp> {
        self.bigint(row, column).map(Timestamp)
    }

    pub fn uuid(&self, row: usize, column: c_int) -> Option<Uuid> {
        // SAFETY: the statements of sql/queries return uuid in this column.
        self.datum(row, column).map(|datum| unsafe { datum::uuid(datum) })
    }

    pub fn oid(&self, row: usize, column: c_int) -> Option<pg_sys::Oid> {
        self.datum(row, column).map(|datum| pg_sys::Oid::from(datum.value() as u32))
    }

    /// A composite value, kept beyond the transaction.
    pub fn parcel(&self, row: usize, column: c_int) -> Option<Parcel> {
        // SAFETY: the statements of sql/queries return a composite value in this column.
        self.datum(row, column).map(|datum| unsafe { Parcel::of(datum) })
    }

    pub fn interval(&self, row: usize, column: c_int) -> Option<Span> {
        // SAFETY: the statements of sql/queries return interval in this column.
        self.datum(row, column).map(|datum| unsafe { Interval::span(datum) })
    }

    pub fn jsonb(&self, row: usize, column: c_int) -> Option<Jsonb> {
        // SAFETY: the statements of sql/queries return jsonb in this column.
        self.datum(row, column).map(|datum| unsafe { Jsonb::from_datum(datum) })
    }

    pub fn text(&self, row: usize, column: c_int) -> Option<Text> {
        // SAFETY: the statements of sql/queries return text in this column.
        self.datum(row, column).map(|datum| unsafe { Text::from_datum(datum) })
    }

    /// As a Rust string; bytes that are not UTF-8 are replaced. For messages and option texts.
    pub fn string(&self, row: usize, column: c_int) -> Option<String> {
        self.text(row, column).map(|text| String::from_utf8_lossy(text.bytes()).into_owned())
    }

    /// Hands all rows to the calling query as they are.
    pub fn pass_to(&self, sink: &RowSink) {
        self.pass_in_order(&(0..self.count()).collect::<Vec<_>>(), sink);
    }

    /// Hands rows to the calling query by their numbers.
    pub fn pass_in_order(&self, order: &[usize], sink: &RowSink) {
        for row in order {
            if let Some(tuple) = self.tuple(*row) {
                sink.put_tuple(tuple);
            }
        }
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        if !self.table.is_null() && !std::thread::panicking() {
            // SAFETY: the table came from SPI_execute_plan on this connection and is freed once. While a Postgres ERROR unwinds
            // the transaction's abort frees it instead.
            unsafe { pg_sys::SPI_freetuptable(self.table) };
        }
    }
}
