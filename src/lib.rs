//! jobq: a complete job queue inside PostgreSQL.
//!
//! This file is a table of contents. Direction of calls: api -> store -> pg; background -> store -> pg; rules know nobody.

pub mod dispatch;
pub mod error;
pub mod rules;

pub mod clock;
pub mod settings;

pub mod api;
pub mod background;
pub mod store;

pub mod pg;

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pg_test/backend/mod.rs"]
mod backend_tests;

use pgrx::extension_sql_file;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/schema/00_schema.sql", name = "schema", bootstrap);
extension_sql_file!("../sql/schema/10_types.sql", name = "types", requires = ["schema"]);
extension_sql_file!("../sql/schema/20_tables.sql", name = "tables", requires = ["types"]);
extension_sql_file!("../sql/schema/25_leases.sql", name = "leases", requires = ["tables"]);
extension_sql_file!("../sql/schema/30_views.sql", name = "views", requires = ["leases"]);
extension_sql_file!("../sql/schema/40_functions.sql", name = "functions", requires = ["views"]);
extension_sql_file!("../sql/schema/50_schedules.sql", name = "schedules", requires = ["functions"]);
extension_sql_file!("../sql/schema/60_pools.sql", name = "pools", requires = ["schedules"]);
extension_sql_file!("../sql/schema/90_finish.sql", name = "finish", requires = ["pools"], finalize);

/// Called when the library is loaded: by the postmaster with preload, else by the first session that uses it.
#[allow(non_snake_case)]
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    let preloading = pg::server::preloading();
    settings::define(preloading);
    pg::xact::register();
    if preloading && !pg::server::binary_upgrade() {
        pg::shmem::reserve();
        pg::two_phase::register();
        pg::process::register_launcher();
    }
}

/// Required by `cargo pgrx test` at the root of the crate.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'jobq'"]
    }
}
