SELECT id, lease FROM jobq.claim('bench', 1, 'bench') \gset
