//! Reading SQL values. jsonb is never decoded here: it goes from argument to row to result byte for byte.

use crate::error::Error;
use crate::rules::span::Span;
use pgrx::pg_sys;
use std::ffi::c_int;
use uuid::Uuid;

/// # Safety
/// The datum must be a non-null uuid.
pub(super) unsafe fn uuid(datum: pg_sys::Datum) -> Uuid {
    // SAFETY: a uuid datum points to 16 bytes.
    Uuid::from_bytes(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
}

pub(super) struct Interval;

impl Interval {
    /// # Safety
    /// The datum must be a non-null interval.
    pub(super) unsafe fn span(datum: pg_sys::Datum) -> Span {
        // SAFETY: an interval datum points to an aligned Interval.
        let parts = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
        Span { months: parts.month, days: parts.day, micros: parts.time }
    }
}

/// A text value in the database's encoding, detoasted; lives as long as the memory context it was read in.
#[derive(Clone, Copy)]
pub struct Text {
    varlena: *mut pg_sys::varlena,
}

impl Text {
    /// # Safety
    /// The datum must be a non-null text (or other varlena).
    pub(super) unsafe fn from_datum(datum: pg_sys::Datum) -> Text {
        // SAFETY: a varlena datum; the packed form keeps short headers, which varsize_any_exhdr and vardata_any read.
        Text { varlena: unsafe { pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()) } }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: from_datum detoasted it; the length comes from its own header.
        unsafe {
            std::slice::from_raw_parts(
                pgrx::varlena::vardata_any(self.varlena).cast(),
                pgrx::varlena::varsize_any_exhdr(self.varlena),
            )
        }
    }

    /// A copy of ASCII text in the current memory context.
    pub fn of(ascii: &str) -> Text {
        let len = c_int::try_from(ascii.len()).unwrap_or(c_int::MAX);
        // SAFETY: pointer and length describe one slice, which is copied.
        Text { varlena: unsafe { pg_sys::cstring_to_text_with_len(ascii.as_ptr().cast(), len) }.cast() }
    }

    /// As UTF-8, for values that must be ASCII anyway.
    pub fn utf8(&self, argument: &'static str) -> Result<&str, Error> {
        std::str::from_utf8(self.bytes()).map_err(|_| Error::BadEncoding { argument })
    }

    /// The longest start of at most `limit` bytes that does not split a character.
    pub fn clip(&self, limit: usize) -> &[u8] {
        let bytes = self.bytes();
        let (len, limit) = (c_int::try_from(bytes.len()).unwrap_or(c_int::MAX), c_int::try_from(limit).unwrap_or(c_int::MAX));
        // SAFETY: the pointer and length describe one slice; pg_mbcliplen only reads it.
        let clipped = unsafe { pg_sys::pg_mbcliplen(bytes.as_ptr().cast(), len, limit) };
        bytes.get(..usize::try_from(clipped).unwrap_or(0)).unwrap_or(bytes)
    }

    /// Characters in the database's encoding.
    pub fn chars(&self) -> usize {
        let bytes = self.bytes();
        // SAFETY: the pointer and length describe one slice; pg_mbstrlen_with_len only reads it.
        let chars =
            unsafe { pg_sys::pg_mbstrlen_with_len(bytes.as_ptr().cast(), c_int::try_from(bytes.len()).unwrap_or(c_int::MAX)) };
        usize::try_from(chars).unwrap_or(0)
    }

    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.varlena)
    }
}

/// A jsonb value, detoasted, never decoded.
#[derive(Clone, Copy)]
pub struct Jsonb {
    varlena: *mut pg_sys::varlena,
}

/// What the root of a jsonb value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    Object,
    Array,
    Scalar,
}

// Flags of JsonbContainer.header, utils/jsonb.h; part of the on-disk format.
const JB_CMASK: u32 = 0x0fff_ffff;
const JB_FSCALAR: u32 = 0x1000_0000;
const JB_FARRAY: u32 = 0x4000_0000;
// Types in a JEntry.
const JENTRY_TYPEMASK: u32 = 0x7000_0000;
const JENTRY_ISNULL: u32 = 0x4000_0000;

impl Jsonb {
    /// # Safety
    /// The datum must be a non-null jsonb.
    pub(super) unsafe fn from_datum(datum: pg_sys::Datum) -> Jsonb {
        // SAFETY: a jsonb datum; pg_detoast_datum gives it a plain four-byte header.
        Jsonb { varlena: unsafe { pg_sys::pg_detoast_datum(datum.cast_mut_ptr()) } }
    }

    /// Bytes it takes in a row, before compression.
    pub fn bytes(&self) -> usize {
        // SAFETY: from_datum gave it a plain header.
        unsafe { pgrx::varlena::varsize_any_exhdr(self.varlena) }
    }

    fn root(&self) -> u32 {
        // SAFETY: after the four-byte header every jsonb starts with the four-byte header of its root container.
        unsafe { pgrx::varlena::vardata_any(self.varlena).cast::<u32>().read_unaligned() }
    }

    /// Elements of the root array, or fields of the root object.
    /// As it lies in memory, without its length.
    pub fn content(&self) -> &[u8] {
        // SAFETY: from_datum detoasted it; the length comes from its own header.
        unsafe {
            std::slice::from_raw_parts(
                pgrx::varlena::vardata_any(self.varlena).cast(),
                pgrx::varlena::varsize_any_exhdr(self.varlena),
            )
        }
    }

    pub fn element_count(&self) -> usize {
        (self.root() & JB_CMASK) as usize
    }

    /// An element of a root array, from 0.
    pub fn element(&self, n: usize) -> Option<Jsonb> {
        let n = i32::try_from(n).ok()?;
        // SAFETY: the function takes a jsonb and an integer, and answers a jsonb or NULL.
        unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::jsonb_array_element, &[Some(self.datum()), Some(pg_sys::Datum::from(n))])
                .map(|datum| Jsonb::from_datum(datum))
        }
    }

    pub fn is_null(&self) -> bool {
        // A scalar is an array of one element, whose entry says what it is.
        self.kind() == JsonKind::Scalar && self.first_entry() & JENTRY_TYPEMASK == JENTRY_ISNULL
    }

    fn first_entry(&self) -> u32 {
        // SAFETY: a scalar's root container has one entry after its header.
        unsafe { pgrx::varlena::vardata_any(self.varlena).cast::<u32>().add(1).read_unaligned() }
    }

    pub fn kind(&self) -> JsonKind {
        let header = self.root();
        match header {
            _ if header & JB_FSCALAR != 0 => JsonKind::Scalar,
            _ if header & JB_FARRAY != 0 => JsonKind::Array,
            _ => JsonKind::Object,
        }
    }

    /// Its text, for option objects only.
    pub fn to_text(self) -> String {
        // SAFETY: jsonb_out takes a jsonb and returns a zero-terminated string in the current memory context.
        unsafe {
            let text = pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(self.datum())]);
            text.map_or_else(String::new, |datum| std::ffi::CStr::from_ptr(datum.cast_mut_ptr()).to_string_lossy().into_owned())
        }
    }

    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.varlena)
    }
}

/// How the elements of an array are stored: length, by value, alignment.
struct Element {
    oid: pg_sys::Oid,
    len: c_int,
    by_value: bool,
    align: u8,
}

const UUID: Element = Element { oid: pg_sys::UUIDOID, len: 16, by_value: false, align: b'c' };
const BIGINT: Element = Element { oid: pg_sys::INT8OID, len: 8, by_value: true, align: b'd' };
const TEXT: Element = Element { oid: pg_sys::TEXTOID, len: -1, by_value: false, align: b'i' };

/// The elements of a one-dimensional array without NULLs.
///
/// # Safety
/// The datum must be a non-null array of that element type.
unsafe fn elements(datum: pg_sys::Datum, element: &Element, argument: &'static str) -> Result<Vec<pg_sys::Datum>, Error> {
    // SAFETY: an array datum, detoasted; deconstruct_array allocates both result arrays with `count` entries.
    unsafe {
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        if (*array).ndim > 1 {
            return Err(Error::invalid(argument, "have one dimension"));
        }
        let (mut datums, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element.oid,
            element.len,
            element.by_value,
            element.align as _,
            &mut datums,
            &mut nulls,
            &mut count,
        );
        let count = usize::try_from(count).unwrap_or(0);
        if count == 0 {
            return Ok(Vec::new());
        }
        if std::slice::from_raw_parts(nulls, count).contains(&true) {
            return Err(Error::Null { argument });
        }
        Ok(std::slice::from_raw_parts(datums, count).to_vec())
    }
}

/// # Safety
/// The datum must be a non-null uuid[].
pub(super) unsafe fn uuids(datum: pg_sys::Datum, argument: &'static str) -> Result<Vec<Uuid>, Error> {
    // SAFETY: passed on; the elements are uuids.
    unsafe { Ok(elements(datum, &UUID, argument)?.into_iter().map(|element| uuid(element)).collect()) }
}

/// # Safety
/// The datum must be a non-null bigint[].
pub(super) unsafe fn bigints(datum: pg_sys::Datum, argument: &'static str) -> Result<Vec<i64>, Error> {
    // SAFETY: passed on; the elements are bigints, passed by value.
    unsafe { Ok(elements(datum, &BIGINT, argument)?.into_iter().map(|element| element.value() as i64).collect()) }
}

/// # Safety
/// The datum must be a non-null text[].
pub(super) unsafe fn texts(datum: pg_sys::Datum, argument: &'static str) -> Result<Vec<Text>, Error> {
    // SAFETY: passed on; the elements are texts.
    unsafe { Ok(elements(datum, &TEXT, argument)?.into_iter().map(|element| Text::from_datum(element)).collect()) }
}

/// A uuid[] in the current memory context.
pub(super) fn uuid_array(ids: &[Uuid]) -> pg_sys::Datum {
    let mut datums: Vec<pg_sys::Datum> = ids.iter().map(|id| pg_sys::Datum::from(id.as_bytes().as_ptr())).collect();
    array(&mut datums, &UUID)
}

/// A bigint[] in the current memory context.
pub(super) fn bigint_array(values: &[i64]) -> pg_sys::Datum {
    let mut datums: Vec<pg_sys::Datum> = values.iter().map(|value| pg_sys::Datum::from(*value)).collect();
    array(&mut datums, &BIGINT)
}

/// A text[] in the current memory context.
pub(super) fn text_array(values: &[Text]) -> pg_sys::Datum {
    let mut datums: Vec<pg_sys::Datum> = values.iter().map(Text::datum).collect();
    array(&mut datums, &TEXT)
}

/// The same of Rust strings.
pub(super) fn string_array(values: &[String]) -> pg_sys::Datum {
    let text = |value: &String| {
        let len = c_int::try_from(value.len()).unwrap_or(c_int::MAX);
        // SAFETY: pointer and length describe one slice, which is copied.
        pg_sys::Datum::from(unsafe { pg_sys::cstring_to_text_with_len(value.as_ptr().cast(), len) })
    };
    let mut datums: Vec<pg_sys::Datum> = values.iter().map(text).collect();
    array(&mut datums, &TEXT)
}

fn array(datums: &mut [pg_sys::Datum], element: &Element) -> pg_sys::Datum {
    let count = c_int::try_from(datums.len()).unwrap_or(c_int::MAX);
    // SAFETY: `datums` has `count` elements of this type; construct_array copies what they point to.
    pg_sys::Datum::from(unsafe {
        pg_sys::construct_array(datums.as_mut_ptr(), count, element.oid, element.len, element.by_value, element.align as _)
    })
}
