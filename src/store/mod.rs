//! The only door to SPI: one function per statement of sql/queries. No rules in here.

pub mod enqueue;
pub mod finish;
pub mod inspect;
pub mod maintenance;
pub mod operate;
pub mod queues;

/// Declares the cached statement of a file in sql/queries.
macro_rules! statement {
    ($name:ident, $file:literal, [$($kind:ident),* $(,)?]) => {
        static $name: $crate::pg::spi::Statement =
            $crate::pg::spi::Statement::new(include_str!(concat!("../../sql/queries/", $file, ".sql")), &[$($crate::pg::spi::Type::$kind),*]);
    };
}
pub(crate) use statement;
