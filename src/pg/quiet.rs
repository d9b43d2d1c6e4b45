//! For test builds: what runs after a commit or in an abort must neither allocate nor raise, for an ERROR there is a PANIC. Every end of
//! a transaction is watched, and one that allocates ends the server.

use pgrx::pg_sys;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// The system's allocator, with a count of what is taken while it is watched.
struct Watched {
    watching: AtomicBool,
    taken: AtomicUsize,
}

#[global_allocator]
static MEMORY: Watched = Watched { watching: AtomicBool::new(false), taken: AtomicUsize::new(0) };

impl Watched {
    fn count(&self) {
        if self.watching.load(SeqCst) {
            self.taken.fetch_add(1, SeqCst);
        }
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Runs `body`: how it allocated memory, if it did. The server's memory is watched in the context that is current, where palloc takes it.
pub fn watch(body: impl FnOnce()) -> Option<&'static str> {
    // SAFETY: a context of our own, current while the body runs, and deleted unless it is the way out of a panic. A context knows
    // whether anything was taken from it since it was made.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(pg_sys::TopMemoryContext, c"jobq quiet".as_ptr(), 0, 1024, 8 * 1024);
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = context;
        MEMORY.taken.store(0, SeqCst);
        MEMORY.watching.store(true, SeqCst);
        body();
        MEMORY.watching.store(false, SeqCst);
        pg_sys::CurrentMemoryContext = before;
        let is_untouched = (*context).isReset;
        pg_sys::MemoryContextDelete(context);
        match MEMORY.taken.load(SeqCst) {
            0 if is_untouched => None,
            0 => Some("the server's memory"),
            _ => Some("the heap"),
        }
    }
}

/// Ends the process if `body` allocates.
pub(super) fn quietly(body: impl FnOnce()) {
    if let Some(memory) = watch(body) {
        eprintln!("jobq: the end of a transaction has allocated from {memory}");
        std::process::abort();
    }
}
