SELECT count(*) FROM jobq.claim('bench', :count, 'holder');
