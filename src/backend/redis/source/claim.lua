-- Takes entries that no consumer has touched for a while, oldest first.
-- KEYS: the stream. ARGV: the group, this consumer, the while in ms, the most entries.
-- Returns for each its id, its deliveries, and its fields; without fields it was trimmed and is acknowledged.
local left = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
local claimed = {}
for i, entry in ipairs(left) do
  local id, deliveries = entry[1], entry[4]
  local found = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id, 'RETRYCOUNT', deliveries)
  local fields = found[1] and found[1][2]
  if not fields then
    redis.call('XACK', KEYS[1], ARGV[1], id)
  end
  claimed[i] = { id, deliveries, fields or false }
end
return claimed
