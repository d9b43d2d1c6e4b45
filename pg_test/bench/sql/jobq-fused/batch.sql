SELECT count(*) FROM jobq.enqueue_many('bench', :payloads, 'bench');
SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM jobq.complete_and_claim(:ids::uuid[], :leases::bigint[], NULL, 'bench', 100, 'bench') \gset
