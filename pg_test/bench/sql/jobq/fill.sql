SELECT count(*) FROM jobq.enqueue_many('bench', (SELECT jsonb_agg(:'payload'::jsonb) FROM generate_series(1, :count)), 'bench');
