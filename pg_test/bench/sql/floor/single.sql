INSERT INTO hand (queue, payload) VALUES ('floor', :payload) RETURNING id \gset
SELECT 1;
DELETE FROM hand WHERE id = :id;
