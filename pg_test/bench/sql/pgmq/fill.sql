SELECT count(*) FROM pgmq.send_batch('bench', ARRAY(SELECT :'payload'::jsonb FROM generate_series(1, :count)));
