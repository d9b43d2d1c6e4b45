//! Tests that run inside a server, in a transaction that is rolled back: `cargo pgrx test`.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn a_job_goes_through_its_life() -> Result<(), pgrx::spi::Error> {
        let id = Spi::get_one::<pgrx::Uuid>("SELECT jobq.enqueue('greet', '{\"name\": \"Ada\"}')")?;
        let claimed = Spi::get_one::<pgrx::Uuid>("SELECT id FROM jobq.claim()")?;
        assert_eq!(id, claimed);
        let state = Spi::get_one::<String>("SELECT jobq.complete(id, lease) FROM jobq._job")?;
        assert_eq!(state.as_deref(), Some("completed"));
        Ok(())
    }
}
