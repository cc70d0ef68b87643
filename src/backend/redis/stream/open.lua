-- Opens shards for one session and returns what earlier ones sent and the database may not have.
-- KEYS     the meta key; the stream or its partitions, unless streams are by template
-- ARGV     the outbox's id; whether batches are trimmed by age, 1 or 0; then, for each shard: "<lane>/<shard>", lease epoch, counter
-- Returns { refused, journal }: refused is a flat list of place and the epoch that Redis has for it,
-- journal a flat list of field and value.
local meta, outbox = KEYS[1], ARGV[1]

-- A missing permission is found here, and not in the middle of a batch.
local unable = refusal(meta, ARGV[2] == '1')
if unable then return redis.error_reply(unable) end

local function newer(epoch, counter, standing)
  if not standing then return true end
  local e, c = string.match(standing, '^(%d+):(%d+)')
  e, c = tonumber(e), tonumber(c)
  if not e then return true end
  return epoch > e or (epoch == e and counter > c)
end

local opened, refused = {}, {}
for i = 3, #ARGV, 3 do
  local place, epoch, counter = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local owner = 'owner/' .. outbox .. '/' .. place
  local standing = redis.call('HGET', meta, owner)
  if newer(tonumber(epoch), tonumber(counter), standing) then
    redis.call('HSET', meta, owner, epoch .. ':' .. counter)
    opened[place] = true
  else
    refused[#refused + 1] = place
    refused[#refused + 1] = string.match(standing, '^(%d+)')
  end
end

local journal = {}
local start = 'sent/' .. outbox .. '/'
for _, field in ipairs(redis.call('HKEYS', meta)) do
  if string.sub(field, 1, #start) == start then
    local place = string.match(field, '^([^/]*/%d+)/', #start + 1)
    if place and opened[place] then
      journal[#journal + 1] = field
      journal[#journal + 1] = redis.call('HGET', meta, field)
    end
  end
end
return { refused, journal }
