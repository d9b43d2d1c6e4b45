SELECT count(*) FROM pgmq.send_batch('bench', ARRAY(SELECT jsonb_array_elements(:payloads::jsonb)));
SELECT array_agg(msg_id) AS ids FROM pgmq.read('bench', 300, 100) \gset
SELECT count(*) FROM pgmq.delete('bench', :ids::bigint[]);
