//! CREATE FUNCTION for a command that somebody else has kept as text, as a parse tree: the text is the body as it is.

use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_void};

fn copy(text: &str) -> *mut c_char {
    // SAFETY: copies the bytes and adds the terminating zero.
    unsafe { pg_sys::pnstrdup(text.as_ptr().cast(), text.len()) }
}

/// # Safety
/// In a transaction; the list lives in the current memory context.
unsafe fn list(items: impl IntoIterator<Item = *mut c_void>) -> *mut pg_sys::List {
    // SAFETY: a null list is the empty one.
    items.into_iter().fold(std::ptr::null_mut(), |list, item| unsafe { pg_sys::lappend(list, item) })
}

/// Makes function `schema.name(jobq.claimed_job)` that returns nothing and runs the command, as the current user: its oid.
pub fn function(schema: &str, name: &str, command: &str) -> pg_sys::Oid {
    // SAFETY: the nodes are palloc0'd with their own tag, as the parser makes them, and live until the statement is over.
    unsafe {
        let string = |text: &str| pg_sys::makeString(copy(text)).cast::<c_void>();
        let kind = |schema, name| pg_sys::makeTypeNameFromNameList(list([string(schema), string(name)]));
        let option = |name: &CStr, value: *mut c_void| {
            pg_sys::makeDefElem(pg_sys::pstrdup(name.as_ptr()), value.cast(), -1).cast::<c_void>()
        };
        let parameter: *mut pg_sys::FunctionParameter = pg_sys::palloc0(size_of::<pg_sys::FunctionParameter>()).cast();
        (*parameter).type_ = pg_sys::NodeTag::T_FunctionParameter;
        (*parameter).name = copy("job");
        (*parameter).argType = kind("jobq", "claimed_job");
        (*parameter).mode = pg_sys::FunctionParameterMode::FUNC_PARAM_DEFAULT;
        let statement: *mut pg_sys::CreateFunctionStmt = pg_sys::palloc0(size_of::<pg_sys::CreateFunctionStmt>()).cast();
        (*statement).type_ = pg_sys::NodeTag::T_CreateFunctionStmt;
        (*statement).funcname = list([string(schema), string(name)]);
        (*statement).parameters = list([parameter.cast()]);
        (*statement).returnType = kind("pg_catalog", "void");
        (*statement).options = list([option(c"as", list([string(command)]).cast()), option(c"language", string("sql"))]);
        let created = pg_sys::CreateFunction(pg_sys::make_parsestate(std::ptr::null_mut()), statement);
        pg_sys::CommandCounterIncrement();
        created.objectId
    }
}

/// Is there something in the command that a function cannot run? It is said what.
pub fn not_for_a_function(command: &str) -> Option<&'static str> {
    // SAFETY: the parser makes a list of RawStmt in the current memory context, or raises.
    unsafe {
        let parsed = pg_sys::raw_parser(copy(command), pg_sys::RawParseMode::RAW_PARSE_DEFAULT).as_ref()?;
        let count = usize::try_from(parsed.length).unwrap_or(0);
        let statements = std::slice::from_raw_parts(parsed.elements, count);
        statements.iter().find_map(|cell| match (*(*cell.ptr_value.cast::<pg_sys::RawStmt>()).stmt).type_ {
            pg_sys::NodeTag::T_VacuumStmt => Some("VACUUM"),
            pg_sys::NodeTag::T_TransactionStmt => Some("a transaction command"),
            pg_sys::NodeTag::T_CallStmt => Some("CALL"),
            pg_sys::NodeTag::T_ReindexStmt => Some("REINDEX"),
            pg_sys::NodeTag::T_ClusterStmt => Some("CLUSTER"),
            pg_sys::NodeTag::T_CreatedbStmt | pg_sys::NodeTag::T_DropdbStmt => Some("CREATE or DROP DATABASE"),
            pg_sys::NodeTag::T_AlterSystemStmt => Some("ALTER SYSTEM"),
            _ => None,
        })
    }
}

/// Is pg_cron's table here?
pub fn has_pg_cron() -> bool {
    // SAFETY: catalog look-ups; missing objects give InvalidOid.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"cron".as_ptr(), true);
        let extension = pg_sys::get_extension_oid(c"pg_cron".as_ptr(), true);
        if schema == pg_sys::InvalidOid || extension == pg_sys::InvalidOid {
            return false;
        }
        let table = pg_sys::get_relname_relid(c"job".as_ptr(), schema);
        // Not somebody's own table or view of that name.
        table != pg_sys::InvalidOid && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table) == extension
    }
}
