SELECT count(pgq.insert_event('bench', 'bench', p::text)) FROM json_array_elements(:payloads::json) AS p;
SELECT pgq.force_tick('bench');
SELECT pgq.ticker('bench');
SELECT pgq.next_batch('bench', 'bench') AS batch \gset
SELECT count(ev_data) FROM pgq.get_batch_events(:batch::bigint);
SELECT pgq.finish_batch(:batch::bigint);
