-- Removes consumers that have nothing pending: one by its name, and those that have been silent for a while.
-- KEYS: the stream. ARGV: the group, the name or nothing, the while in ms.
-- Returns how many were removed.
local removed = 0
for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #facts, 2 do
    consumer[facts[i]] = facts[i + 1]
  end
  local is_over = consumer.name == ARGV[2] or consumer.idle >= tonumber(ARGV[3])
  if consumer.pending == 0 and is_over then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    removed = removed + 1
  end
end
return removed
