-- Acknowledges entries of a stream that belongs to the group alone, and deletes them.
-- KEYS: the stream. ARGV: the group, then the ids.
redis.call('XACK', KEYS[1], unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
