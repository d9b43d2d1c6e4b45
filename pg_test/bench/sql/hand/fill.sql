INSERT INTO hand (queue, payload) SELECT 'bench', :'payload'::jsonb FROM generate_series(1, :count);
