-- Gives up partitions, unless others have them.
-- KEYS: the hash of the members and the leases. ARGV: the owner, 1 if it leaves the group, then the partitions with their
-- tokens.
-- Returns how many it had.
local released = 0
for i = 3, #ARGV, 2 do
  if is_held(KEYS[1], ARGV[i], ARGV[1], ARGV[i + 1]) then
    released = released + redis.call('HDEL', KEYS[1], 'lease/' .. ARGV[i])
  end
end
if ARGV[2] == '1' then
  redis.call('HDEL', KEYS[1], 'member/' .. ARGV[1])
end
return released
