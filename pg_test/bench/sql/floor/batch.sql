WITH new AS (INSERT INTO hand (queue, payload) SELECT 'floor', p FROM jsonb_array_elements(:payloads::jsonb) AS p RETURNING id) SELECT array_agg(id) AS ids FROM new \gset
SELECT 1;
DELETE FROM hand WHERE id = ANY (:ids::bigint[]);
