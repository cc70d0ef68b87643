-- Moves dead letters to the stream from which the group receives them again.
-- KEYS: the stream of dead letters, the stream of retried ones. ARGV: the number of fields that were added to each, the ids.
-- Returns the ids of those that were moved. A letter without fields of its own has nothing to deliver and stays.
local moved = {}
for i = 2, #ARGV do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
  local fields = found[1] and found[1][2]
  if fields and #fields > 2 * ARGV[1] then
    redis.call('XADD', KEYS[2], '*', unpack(fields, 1, #fields - 2 * ARGV[1]))
    redis.call('XDEL', KEYS[1], ARGV[i])
    moved[#moved + 1] = ARGV[i]
  end
end
return moved
