-- Checkpoints by time and by request, Postgres 15 and 16.
SELECT b.checkpoints_timed, b.checkpoints_req FROM pg_stat_bgwriter AS b
