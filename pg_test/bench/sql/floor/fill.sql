INSERT INTO hand (queue, payload) SELECT 'floor', :'payload'::jsonb FROM generate_series(1, :count);
