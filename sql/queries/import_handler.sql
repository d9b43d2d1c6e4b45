-- With the rights of the caller: kind $1 is run by function $2 as role $3.
SELECT jobq.create_handler($1, $2, $3)
