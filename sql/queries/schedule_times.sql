-- What preview needs of a schedule. Index: _schedule_name.
SELECT s.next_at, s.anchor_at, s.starts_at, s.ends_at, s.cron, s.timezone FROM jobq._schedule AS s WHERE s.name = $1
