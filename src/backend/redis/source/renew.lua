-- Renews entries that are pending for this consumer.
-- KEYS: the stream. ARGV: the group, this consumer, then for each entry its id, how long it counts as untouched in ms, and
-- its deliveries.
-- Returns the ids of the others.
local lost = {}
for i = 3, #ARGV, 3 do
  local id = ARGV[i]
  if redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[i + 1], 'RETRYCOUNT', ARGV[i + 2], 'JUSTID')
  else
    lost[#lost + 1] = id
  end
end
return lost
