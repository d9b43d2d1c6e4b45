SELECT jobq.enqueue('bench', :payload, 'bench');
SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM jobq.complete_and_claim(:ids::uuid[], :leases::bigint[], NULL, 'bench', 1, 'bench') \gset
