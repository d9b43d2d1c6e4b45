SELECT msg_id FROM pgmq.read('bench', 300, 1) \gset
