-- Moves an entry that is pending for this consumer to the dead letters.
-- KEYS: the stream, the stream of dead letters, and the hash of the leases if it is a partition. ARGV: the group, this consumer,
-- the partition, the owner and the token of the lease, the id, whether it is known to be trimmed, whether the stream belongs to the
-- group alone, the number of fields and values that replace those of an entry
-- that was trimmed, these, and the fields and values that are added.
-- Returns 1, or 0 if the entry is not this consumer's.
local id, is_trimmed, is_own, count = ARGV[6], ARGV[7] == '1', ARGV[8] == '1', tonumber(ARGV[9])
if KEYS[3] and not is_held(KEYS[3], ARGV[3], ARGV[4], ARGV[5]) then
  return 0
end
if not is_trimmed and not redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1] then
  return 0
end
local found = redis.call('XRANGE', KEYS[1], id, id)
local letter = found[1] and found[1][2] or { unpack(ARGV, 10, 9 + count) }
for i = 10 + count, #ARGV do
  letter[#letter + 1] = ARGV[i]
end
redis.call('XADD', KEYS[2], '*', unpack(letter))
redis.call('XACK', KEYS[1], ARGV[1], id)
if is_own then
  redis.call('XDEL', KEYS[1], id)
end
return 1
