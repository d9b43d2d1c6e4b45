//! The door from SQL: one entry for every function of the extension.
//!
//! The functions are declared in sql/schema/40_functions.sql and exported here with Postgres's version-1 calling convention.
//! pgrx's own wrapper is not used for them because its error type has only the standard SQLSTATEs: an error that passes through it
//! with class JQ comes out as XX000. So a refusal travels as a Rust value to `enter`, which raises it after every Rust frame is gone.

use super::datum::{Interval, Jsonb, Text};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::rules::span::Span;
use pgrx::pg_sys;
use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use uuid::Uuid;

/// What a function answers; `Null` also ends a set-returning one.
pub enum Answer {
    Null,
    Uuid(Uuid),
    Text(Cow<'static, str>),
    Bool(bool),
    Int(i32),
    BigInt(i64),
    Double(f64),
    Timestamp(Timestamp),
    Datum(pg_sys::Datum),
}

pub type Outcome = Result<Answer, Error>;

/// The arguments of one call, by position.
pub struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
    rows: Cell<*mut pg_sys::ReturnSetInfo>,
}

impl Call {
    fn datum(&self, n: usize) -> Option<pg_sys::Datum> {
        // SAFETY: Postgres passes a valid fcinfo that outlives the call; pgrx checks n against its number of arguments.
        unsafe { pgrx::fcinfo::pg_getarg_datum(self.fcinfo, n) }
    }

    pub fn int(&self, n: usize) -> Option<i32> {
        self.datum(n).map(|datum| datum.value() as i32)
    }

    pub fn bigint(&self, n: usize) -> Option<i64> {
        self.datum(n).map(|datum| datum.value() as i64)
    }

    pub fn boolean(&self, n: usize) -> Option<bool> {
        self.datum(n).map(|datum| datum.value() & 0xff != 0)
    }

    pub fn double(&self, n: usize) -> Option<f64> {
        self.datum(n).map(|datum| f64::from_bits(datum.value() as u64))
    }

    pub fn timestamp(&self, n: usize) -> Option<Timestamp> {
        self.datum(n).map(|datum| Timestamp(datum.value() as i64))
    }

    pub fn oid(&self, n: usize) -> Option<pg_sys::Oid> {
        self.datum(n).map(|datum| pg_sys::Oid::from(datum.value() as u32))
    }

    pub fn uuid(&self, n: usize) -> Option<Uuid> {
        // SAFETY: sql/schema declares this argument as uuid.
        self.datum(n).map(|datum| unsafe { super::datum::uuid(datum) })
    }

    pub fn interval(&self, n: usize) -> Option<Span> {
        // SAFETY: sql/schema declares this argument as interval.
        self.datum(n).map(|datum| unsafe { Interval::span(datum) })
    }

    pub fn text(&self, n: usize) -> Option<Text> {
        // SAFETY: sql/schema declares this argument as text.
        self.datum(n).map(|datum| unsafe { Text::from_datum(datum) })
    }

    pub fn jsonb(&self, n: usize) -> Option<Jsonb> {
        // SAFETY: sql/schema declares this argument as jsonb.
        self.datum(n).map(|datum| unsafe { Jsonb::from_datum(datum) })
    }

    pub fn uuids(&self, n: usize, argument: &'static str) -> Result<Option<Vec<Uuid>>, Error> {
        // SAFETY: sql/schema declares this argument as uuid[].
        self.datum(n).map(|datum| unsafe { super::datum::uuids(datum, argument) }).transpose()
    }

    pub fn bigints(&self, n: usize, argument: &'static str) -> Result<Option<Vec<i64>>, Error> {
        // SAFETY: sql/schema declares this argument as bigint[].
        self.datum(n).map(|datum| unsafe { super::datum::bigints(datum, argument) }).transpose()
    }

    pub fn texts(&self, n: usize, argument: &'static str) -> Result<Option<Vec<Text>>, Error> {
        // SAFETY: sql/schema declares this argument as text[].
        self.datum(n).map(|datum| unsafe { super::datum::texts(datum, argument) }).transpose()
    }

    /// Was a procedure called so that it may commit: not in a transaction block, a function, or a pipeline?
    pub fn may_commit(&self) -> bool {
        // SAFETY: fcinfo is valid; a CALL passes a CallContext, and the tag says so. The rest is this backend's transaction state.
        unsafe {
            let context = (*self.fcinfo).context;
            !context.is_null()
                && (*context).type_ == pg_sys::NodeTag::T_CallContext
                && !(*context.cast::<pg_sys::CallContext>()).atomic
                && pg_sys::GetCurrentTransactionNestLevel() == 1
                && pg_sys::MyXactFlags & pg_sys::XACT_FLAGS_PIPELINING as c_int == 0
        }
    }

    /// The one row that a procedure with INOUT arguments answers with.
    pub fn row(&self, values: &[super::spi::Param]) -> Answer {
        let mut datums: Vec<pg_sys::Datum> = values.iter().map(|value| value.datum()).collect();
        let mut nulls: Vec<bool> = values.iter().map(|value| value.is_null()).collect();
        // SAFETY: fcinfo is valid; the declared result is a row with one column per value (sql/schema), else Postgres raises.
        unsafe {
            let mut descriptor: pg_sys::TupleDesc = std::ptr::null_mut();
            pg_sys::get_call_result_type(self.fcinfo, std::ptr::null_mut(), &mut descriptor);
            let descriptor = pg_sys::BlessTupleDesc(descriptor);
            let tuple = pg_sys::heap_form_tuple(descriptor, datums.as_mut_ptr(), nulls.as_mut_ptr());
            Answer::Datum(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }

    /// Where a set-returning function puts its rows. All of them are kept before the first is read: a claim is never half done
    /// because the caller stopped fetching.
    pub fn rows(&self) -> RowSink {
        self.sink(0)
    }

    /// The same for a function that returns a set of plain values.
    pub fn values(&self) -> RowSink {
        self.sink(pg_sys::MAT_SRF_USE_EXPECTED_DESC)
    }

    fn sink(&self, flags: u32) -> RowSink {
        if self.rows.get().is_null() {
            // SAFETY: fcinfo is valid; InitMaterializedSRF raises an ERROR itself when the context cannot take a set. It stores the
            // tuplestore and the descriptor, both in the per-query context, in the ReturnSetInfo that resultinfo points to.
            unsafe {
                pg_sys::InitMaterializedSRF(self.fcinfo, flags);
                self.rows.set((*self.fcinfo).resultinfo.cast());
            }
        }
        RowSink { rsinfo: self.rows.get() }
    }
}

/// The tuplestore of the calling query.
pub struct RowSink {
    rsinfo: *mut pg_sys::ReturnSetInfo,
}

impl RowSink {
    /// Adds a row as a query produced it; its columns must be those of the declared result type.
    pub(super) fn put_tuple(&self, tuple: pg_sys::HeapTuple) {
        // SAFETY: rsinfo was filled by InitMaterializedSRF in this call; tuplestore_puttuple copies the tuple.
        unsafe { pg_sys::tuplestore_puttuple((*self.rsinfo).setResult, tuple) }
    }

    /// Adds a row of values; `None` is NULL.
    pub fn put(&self, values: &[super::spi::Param]) {
        let mut datums: Vec<pg_sys::Datum> = values.iter().map(|value| value.datum()).collect();
        let mut nulls: Vec<bool> = values.iter().map(|value| value.is_null()).collect();
        // SAFETY: both arrays have one entry per column of the declared type (the caller's table in sql/schema); values are copied.
        unsafe {
            pg_sys::tuplestore_putvalues(
                (*self.rsinfo).setResult,
                (*self.rsinfo).setDesc,
                datums.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }
}

/// Runs `function` for an SQL call and turns its outcome into a datum or an ERROR.
///
/// # Safety
/// Only Postgres's function manager may call this, through the exported functions below.
pub unsafe fn enter(fcinfo: pg_sys::FunctionCallInfo, function: fn(&Call) -> Outcome) -> pg_sys::Datum {
    // Errors of the server arrive here as panics: pgrx catches their longjmp at each call into Postgres, so that Rust frames unwind.
    // SAFETY: the guard is for what fails while the answer itself is made (out of memory); it is at the top of the Rust frames.
    let finished = unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let call = Call { fcinfo, rows: Cell::new(std::ptr::null_mut()) };
                function(&call).map(datum_of)
            }));
            match outcome {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(refusal)) => Err(raisable(&Raised::from(refusal))),
                Err(panic) => Err(raisable(&Raised::from(panic))),
            }
        })
    };
    match finished {
        Ok(Some(datum)) => datum,
        Ok(None) => {
            // SAFETY: fcinfo is valid for the call.
            unsafe { (*fcinfo).isnull = true };
            pg_sys::Datum::from(0)
        }
        // SAFETY: error_data made it from palloc'd strings; no Rust value with a destructor is alive in this frame.
        Err(data) => unsafe { ThrowErrorData(data) },
    }
}

fn datum_of(answer: Answer) -> Option<pg_sys::Datum> {
    match answer {
        Answer::Null => None,
        Answer::Uuid(id) => super::spi::Param::from(id).into_datum(),
        Answer::Text(text) => super::spi::Param::from(text.as_ref()).into_datum(),
        Answer::Bool(value) => Some(pg_sys::Datum::from(value)),
        Answer::Int(value) => Some(pg_sys::Datum::from(value)),
        Answer::BigInt(value) => Some(pg_sys::Datum::from(value)),
        Answer::Double(value) => Some(pg_sys::Datum::from(value.to_bits())),
        Answer::Timestamp(value) => Some(pg_sys::Datum::from(value.0)),
        Answer::Datum(value) => Some(value),
    }
}

/// Raises an error where no function's entry does it: no Rust value that needs to be dropped may be alive in any frame above the
/// server's.
pub(super) fn raise(refusal: Error) -> ! {
    let data = raisable(&Raised::from(refusal));
    // SAFETY: made from palloc'd strings.
    unsafe { ThrowErrorData(data) }
}

unsafe extern "C-unwind" {
    // Postgres's own, without pgrx's guard around it: the guard would read the SQLSTATE back through its closed list.
    fn ThrowErrorData(edata: *mut pg_sys::ErrorData) -> !;
}

/// What is told to the client.
pub(super) struct Raised {
    pub sqlerrcode: c_int,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl From<Error> for Raised {
    fn from(refusal: Error) -> Self {
        Raised {
            sqlerrcode: pack_sqlstate(refusal.sqlstate()),
            message: refusal.message(),
            detail: refusal.detail(),
            hint: refusal.hint().map(String::from),
        }
    }
}

impl From<Box<dyn Any + Send>> for Raised {
    /// The server's own error as it was, or XX000 for a panic. pgrx would add a backtrace with the paths of the build machine.
    fn from(panic: Box<dyn Any + Send>) -> Self {
        use pg_sys::panic::CaughtError;
        match panic.downcast_ref::<CaughtError>() {
            Some(CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) => Raised {
                sqlerrcode: report.sql_error_code() as c_int,
                message: report.message().to_string(),
                detail: report.detail().map(String::from),
                hint: report.hint().map(String::from),
            },
            _ => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                Raised::from(Error::internal(text.unwrap_or_else(|| "a panic without a message".into())))
            }
        }
    }
}

/// An ErrorData in the current memory context, freed with the failed transaction.
fn raisable(raised: &Raised) -> *mut pg_sys::ErrorData {
    // SAFETY: reads a setting of this backend.
    let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as c_int;
    let copy = |text: &str| -> *mut c_char {
        // What came from a document may be in no other encoding than UTF-8.
        let ascii = (!is_utf8 && !text.is_ascii()).then(|| text.replace(|c: char| !c.is_ascii(), "?"));
        let text = ascii.as_deref().unwrap_or(text);
        // SAFETY: pnstrdup copies the bytes into the current memory context and adds the terminating zero.
        unsafe { pg_sys::pnstrdup(text.as_ptr().cast(), text.len()) }
    };
    let copy_if_any = |text: &Option<String>| text.as_deref().map_or(std::ptr::null_mut(), copy);
    // SAFETY: palloc0 returns zeroed memory of the asked size or raises; ErrorData is plain data for which zero means "not given".
    unsafe {
        let data: *mut pg_sys::ErrorData = pg_sys::palloc0(size_of::<pg_sys::ErrorData>()).cast();
        (*data).elevel = pgrx::PgLogLevel::ERROR as c_int;
        (*data).sqlerrcode = raised.sqlerrcode;
        (*data).message = copy(&raised.message);
        (*data).detail = copy_if_any(&raised.detail);
        (*data).hint = copy_if_any(&raised.hint);
        (*data).filename = c"jobq".as_ptr();
        (*data).funcname = c"jobq".as_ptr();
        data
    }
}

/// MAKE_SQLSTATE of utils/elog.h: six bits a character.
fn pack_sqlstate(code: [u8; 5]) -> c_int {
    code.iter().rev().fold(0, |packed, c| packed << 6 | c_int::from(c.wrapping_sub(b'0') & 0x3f))
}

/// The same back.
pub(super) fn unpack_sqlstate(packed: c_int) -> [u8; 5] {
    let mut left = packed;
    [(); 5].map(|()| {
        let c = (left & 0x3f) as u8;
        left >>= 6;
        c.wrapping_add(b'0')
    })
}

/// Exports functions to SQL: `symbol => path` makes `symbol` callable by LANGUAGE c.
#[macro_export]
macro_rules! sql_functions {
    ($($symbol:ident => $function:path),* $(,)?) => { $(
        /// # Safety
        /// Called by Postgres's function manager only.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: Postgres calls this symbol with a valid fcinfo.
            unsafe { $crate::pg::call::enter(fcinfo, $function) }
        }
        const _: () = {
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($symbol)))]
            extern "C" fn finfo() -> *const pgrx::pg_sys::Pg_finfo_record {
                static V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &V1
            }
        };
    )* };
}
