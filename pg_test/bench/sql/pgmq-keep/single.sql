SELECT pgmq.send('bench', :payload::jsonb);
SELECT msg_id FROM pgmq.read('bench', 300, 1) \gset
SELECT pgmq.archive('bench', :msg_id::bigint);
