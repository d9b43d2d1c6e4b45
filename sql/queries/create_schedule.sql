-- No row when the name is taken.
INSERT INTO jobq._schedule (id, created_at, name, next_at, due_at, anchor_at, starts_at, ends_at, timeout_ms, jitter_ms, priority, max_attempts,
                            catch_up_max, cron, timezone, catch_up, overlap, queue, kind, headers, payload)
VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
ON CONFLICT (name) DO NOTHING
