INSERT INTO hand (queue, payload) SELECT 'bench', p FROM jsonb_array_elements(:payloads::jsonb) AS p;
WITH c AS MATERIALIZED (SELECT id FROM hand WHERE queue = 'bench' AND state = 'pending' AND run_at <= now() ORDER BY priority, run_at, id LIMIT 100 FOR UPDATE SKIP LOCKED), u AS (UPDATE hand SET state = 'running', attempt = attempt + 1, worker = 'bench', lease_expires_at = clock_timestamp() + interval '5 min' FROM c WHERE hand.id = c.id RETURNING hand.id) SELECT array_agg(id) AS ids FROM u \gset
DELETE FROM hand WHERE id = ANY (:ids::bigint[]);
