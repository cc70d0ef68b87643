-- KEYS[1]: a stream. ARGV: an id, and a number. Returns how many entries come after the id, counted up to the number.
return #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
