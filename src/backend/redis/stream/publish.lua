-- Sends one batch under the tokens of its shards.
-- KEYS  the stream, the meta key; further streams
-- ARGV  max_len, number of shards, number of events, number of settled journal fields, max_age in milliseconds or 0;
--       for each shard: owner field, token, journal field, journal value (24 bytes for each event, in order);
--       the settled journal fields;
--       for each event: the shard's number in the list above, how many fields and values follow, only with further
--       streams the number of the event's key in KEYS, field and value pairs
-- Returns { 'sent' }, { 'closed' } (another session has a shard; nothing was done) or { 'stopped', events sent, error }.
local stream, meta = KEYS[1], KEYS[2]
local max_len = ARGV[1]
local shards, events, settled = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local max_age = tonumber(ARGV[5])
local several = #KEYS > 2
local ENTRY = 24

local first = 6
local function shard(n) return first + (n - 1) * 4 end

for n = 1, shards do
  local at = shard(n)
  if redis.call('HGET', meta, ARGV[at]) ~= ARGV[at + 1] then
    return { 'closed' }
  end
end

-- The journal comes first: its HSET is what Redis refuses when memory is full, before anything was sent.
local journal = {}
for n = 1, shards do
  journal[#journal + 1] = ARGV[shard(n) + 2]
  journal[#journal + 1] = ARGV[shard(n) + 3]
end
if shards > 0 then
  local written = redis.pcall('HSET', meta, unpack(journal))
  if type(written) == 'table' and written.err then
    return { 'stopped', 0, written.err }
  end
end

-- The id of the oldest entry to keep, by the clock that gives entries their ids.
local oldest
if max_age > 0 then
  local now = redis.call('TIME')
  oldest = string.format('%.0f', math.max(0, now[1] * 1000 + math.floor(now[2] / 1000) - max_age))
end

-- Inside a function, so that pcall also catches what unpack raises.
local function add(from, to)
  if max_len == '0' then
    if oldest then
      return redis.call('XADD', stream, 'MINID', '~', oldest, '*', unpack(ARGV, from, to))
    end
    return redis.call('XADD', stream, '*', unpack(ARGV, from, to))
  end
  return redis.call('XADD', stream, 'MAXLEN', '~', max_len, '*', unpack(ARGV, from, to))
end

local kept = {}
local at = shard(shards + 1) + settled
for event = 1, events do
  local n, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at = at + 2
  if several then
    stream = KEYS[tonumber(ARGV[at])]
    at = at + 1
  end
  local ok, reply = pcall(add, at, at + count - 1)
  if not ok then
    for place = 1, shards do
      local field, left = ARGV[shard(place) + 2], kept[place] or 0
      -- Uses the command that wrote it, which nothing can forbid in the middle of a script. An empty field names no event;
      -- whether it can be deleted does not matter.
      redis.call('HSET', meta, field, string.sub(ARGV[shard(place) + 3], 1, left * ENTRY))
      if left == 0 then redis.pcall('HDEL', meta, field) end
      redis.call('HSET', meta, ARGV[shard(place)], ARGV[shard(place) + 1] .. ':closed')
    end
    if type(reply) == 'table' then reply = reply.err end
    return { 'stopped', event - 1, tostring(reply) }
  end
  kept[n] = (kept[n] or 0) + 1
  at = at + count
end

-- One XADD trims by one of the two. The entries are there, whether or not this succeeds.
if oldest and max_len ~= '0' then
  for n = 1, #KEYS do
    if n ~= 2 then redis.pcall('XTRIM', KEYS[n], 'MINID', '~', oldest) end
  end
end

for n = 0, settled - 1 do
  redis.call('HDEL', meta, ARGV[shard(shards + 1) + n])
end
return { 'sent' }
