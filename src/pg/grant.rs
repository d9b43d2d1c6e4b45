//! GRANT and REVOKE on the extension's own objects, as parse trees: no SQL text is built.

use pgrx::pg_sys;
use std::ffi::{c_char, c_void};

/// What is granted.
pub enum Object<'a> {
    /// USAGE on schema jobq.
    Schema,
    /// SELECT on views, by name.
    Views(&'a [&'a str]),
    /// EXECUTE on functions, by name: none is overloaded.
    Functions(&'a [&'a str]),
}

/// The name of a role; None when there is none with this oid.
fn role_name(role: pg_sys::Oid) -> Option<*mut c_char> {
    // SAFETY: a catalog look-up; returns palloc'd memory or null.
    let name = unsafe { pg_sys::GetUserNameFromId(role, true) };
    (!name.is_null()).then_some(name)
}

pub fn role_exists(role: pg_sys::Oid) -> bool {
    role_name(role).is_some()
}

/// Runs GRANT or REVOKE as the current user, who must own the objects.
pub fn change(grant: bool, object: &Object<'_>, role: pg_sys::Oid) {
    let Some(role_name) = role_name(role) else { return };
    // SAFETY: the nodes are palloc0'd with their own tag, as the parser makes them, and live until the statement is over; names are
    // copied into the same memory context.
    unsafe {
        // What the server does before it runs a GRANT statement: 25006 on a standby and in a read-only transaction.
        let name = if grant { c"jobq.grant_access" } else { c"jobq.revoke_access" };
        super::server::refuse_if_read_only(name);
        let (kind, privilege, objects) = match object {
            Object::Schema => (pg_sys::ObjectType::OBJECT_SCHEMA, c"usage", list([string("jobq").cast()])),
            Object::Views(names) => (pg_sys::ObjectType::OBJECT_TABLE, c"select", list(names.iter().map(|name| view(name)))),
            Object::Functions(names) => {
                (pg_sys::ObjectType::OBJECT_ROUTINE, c"execute", list(names.iter().map(|name| function(name))))
            }
        };
        let grantee: *mut pg_sys::RoleSpec = node(pg_sys::NodeTag::T_RoleSpec);
        (*grantee).roletype = pg_sys::RoleSpecType::ROLESPEC_CSTRING;
        (*grantee).rolename = role_name;
        (*grantee).location = -1;
        let access: *mut pg_sys::AccessPriv = node(pg_sys::NodeTag::T_AccessPriv);
        (*access).priv_name = pg_sys::pstrdup(privilege.as_ptr());

        let statement: *mut pg_sys::GrantStmt = node(pg_sys::NodeTag::T_GrantStmt);
        (*statement).is_grant = grant;
        (*statement).targtype = pg_sys::GrantTargetType::ACL_TARGET_OBJECT;
        (*statement).objtype = kind;
        (*statement).objects = objects;
        (*statement).privileges = list([access.cast()]);
        (*statement).grantees = list([grantee.cast()]);
        (*statement).behavior = pg_sys::DropBehavior::DROP_RESTRICT;
        pg_sys::ExecuteGrantStmt(statement);
        pg_sys::CommandCounterIncrement();
    }
}

/// # Safety
/// `T` must be the node struct that belongs to the tag.
unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: palloc0 returns zeroed memory of that size; every node starts with its tag.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>());
        *node.cast::<pg_sys::NodeTag>() = tag;
        node.cast()
    }
}

fn copy(text: &str) -> *mut c_char {
    // SAFETY: copies the bytes and adds the terminating zero.
    unsafe { pg_sys::pnstrdup(text.as_ptr().cast(), text.len()) }
}

fn string(text: &str) -> *mut c_void {
    // SAFETY: makeString keeps the pointer, which lives in the same memory context.
    unsafe { pg_sys::makeString(copy(text)).cast() }
}

fn list(items: impl IntoIterator<Item = *mut c_void>) -> *mut pg_sys::List {
    // SAFETY: lappend allocates in the current memory context; a null list is the empty one.
    items.into_iter().fold(std::ptr::null_mut(), |list, item| unsafe { pg_sys::lappend(list, item) })
}

fn view(name: &str) -> *mut c_void {
    // SAFETY: makeRangeVar keeps both pointers.
    unsafe { pg_sys::makeRangeVar(copy("jobq"), copy(name), -1).cast() }
}

fn function(name: &str) -> *mut c_void {
    // SAFETY: as in `change`.
    unsafe {
        let object: *mut pg_sys::ObjectWithArgs = node(pg_sys::NodeTag::T_ObjectWithArgs);
        (*object).objname = list([string("jobq"), string(name)]);
        (*object).args_unspecified = true;
        object.cast()
    }
}
