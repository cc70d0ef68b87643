-- Takes entries that no consumer has touched for a while, oldest first.
-- KEYS: the stream. ARGV: the group, this consumer, the while in ms, the most entries.
local left = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
return claim(KEYS[1], ARGV[1], ARGV[2], left)
