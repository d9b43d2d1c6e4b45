INSERT INTO hand (queue, payload) VALUES ('bench', :payload);
UPDATE hand SET state = 'running', attempt = attempt + 1, worker = 'bench', lease_expires_at = clock_timestamp() + interval '5 min' WHERE id = (SELECT id FROM hand WHERE queue = 'bench' AND state = 'pending' AND run_at <= now() ORDER BY priority, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, payload::text \gset
UPDATE hand SET state = 'completed', worker = NULL, lease_expires_at = NULL WHERE id = :id;
