SELECT count(*) FROM jobq.enqueue_many('bench', :payloads, 'bench');
SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM jobq.claim('bench', 100, 'bench') \gset
SELECT count(*) FROM jobq.complete_many(:ids::uuid[], :leases::bigint[]);
