-- Takes the entries of a leased stream that are pending, of any consumer, oldest first.
-- KEYS: the hash of the leases, the stream. ARGV: the group, this consumer, the owner, the partition, the token of the lease,
-- the number of the claim, the first id, the most entries.
-- Returns nothing if the lease is another one's. Otherwise the entries, as `claim` does, and the last id that the group has
-- read.
local stream, group = KEYS[2], ARGV[1]
local held, claims = is_held(KEYS[1], ARGV[4], ARGV[3], ARGV[5])
if not held or claims > tonumber(ARGV[6]) then
  return false
end
-- As in beat.lua.
redis.call('HDEL', KEYS[1], 'none')
redis.call('HSET', KEYS[1], 'lease/' .. ARGV[4], ARGV[5] .. ' ' .. ARGV[6] .. ' ' .. ARGV[3])
local left = redis.call('XPENDING', stream, group, ARGV[7], '+', ARGV[8])
local claimed = claim(stream, group, ARGV[2], left)
for _, facts in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local found = {}
  for i = 1, #facts, 2 do
    found[facts[i]] = facts[i + 1]
  end
  if found.name == group then
    return { claimed, found['last-delivered-id'] }
  end
end
return { claimed, '0-0' }
