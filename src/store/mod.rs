//! The only door to the tables: one function per statement of sql/queries; the most frequent ones row by row in `direct`. No rules in
//! here.

pub mod candidates;
pub mod counts;
pub mod direct;
pub mod enqueue;
pub mod finish;
pub mod inspect;
pub mod maintenance;
pub mod operate;
pub mod pg_cron;
pub mod pools;
pub mod queues;
pub mod schedules;

/// Declares the cached statement of a file in sql/queries; planned by index unless it says Free.
macro_rules! statement {
    ($name:ident, $file:literal, [$($kind:ident),* $(,)?]) => {
        $crate::store::statement!($name, $file, [$($kind),*], ByIndex);
    };
    ($name:ident, $file:literal, [$($kind:ident),* $(,)?], $planner:ident) => {
        static $name: $crate::pg::spi::Statement = $crate::pg::spi::Statement::new(
            include_str!(concat!("../../sql/queries/", $file, ".sql")),
            &[$($crate::pg::spi::Type::$kind),*],
            $crate::pg::spi::Planner::$planner,
        );
    };
}
pub(crate) use statement;
