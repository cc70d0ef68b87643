-- Takes entries that are pending. Returns for each its id, its deliveries, and its fields; without fields it was trimmed and is
-- acknowledged.
local function claim(stream, group, consumer, pending)
  local claimed = {}
  for i, entry in ipairs(pending) do
    local id, deliveries = entry[1], entry[4]
    local found = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries)
    local fields = found[1] and found[1][2]
    if not fields then
      redis.call('XACK', stream, group, id)
    end
    claimed[i] = { id, deliveries, fields or false }
  end
  return claimed
end
