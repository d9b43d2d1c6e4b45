-- Checkpoints by time and by request, Postgres 17 and later.
SELECT c.num_timed, c.num_requested FROM pg_stat_checkpointer AS c
