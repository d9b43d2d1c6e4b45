SELECT jobq.enqueue('bench', :payload, 'bench');
SELECT id, lease FROM jobq.claim('bench', 1, 'bench') \gset
SELECT jobq.complete(:id::uuid, :lease);
