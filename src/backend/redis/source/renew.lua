-- Renews entries that are pending for this consumer.
-- KEYS: the stream, and the hash of the leases if it is a partition. ARGV: the group, this consumer, the partition, the owner
-- and the token of the lease, then for each entry its id, how long it counts as untouched in ms, and its deliveries.
-- Returns the ids of the others, and the ids of those that were trimmed: from Redis 7 on, they are not pending any more.
local lost, trimmed = {}, {}
local is_ours = not KEYS[2] or is_held(KEYS[2], ARGV[3], ARGV[4], ARGV[5])
for i = 6, #ARGV, 3 do
  local id = ARGV[i]
  if is_ours and redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1] then
    local update = { 'IDLE', ARGV[i + 1], 'RETRYCOUNT', ARGV[i + 2], 'JUSTID' }
    if not redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, unpack(update))[1] then
      trimmed[#trimmed + 1] = id
    end
  else
    lost[#lost + 1] = id
  end
end
return { lost, trimmed }
