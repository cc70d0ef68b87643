-- Lists streams that are new in the meta key, up to a limit that all workers share.
-- KEYS[1]  the meta key
-- ARGV     the limit, 0 for none; the streams
-- Returns the streams that would exceed it.
local meta, most = KEYS[1], tonumber(ARGV[1])
local PREFIX = 'stream/'

local function listed()
  local count = 0
  for _, field in ipairs(redis.call('HKEYS', meta)) do
    if string.sub(field, 1, #PREFIX) == PREFIX then count = count + 1 end
  end
  return count
end

local count
local refused = {}
for i = 2, #ARGV do
  if not redis.call('HGET', meta, PREFIX .. ARGV[i]) then
    if most > 0 then count = count or listed() end
    if count and count >= most then
      refused[#refused + 1] = ARGV[i]
    else
      redis.call('HSET', meta, PREFIX .. ARGV[i], '')
      count = count and count + 1
    end
  end
end
return refused
