-- The reason why Redis would refuse a batch now, trimmed by age or not; nil if it would accept one. The test leaves no data
-- behind.
local function refusal(meta, trims_by_age)
  local function try(expected, ...)
    local reply = redis.pcall(...)
    local err = type(reply) == 'table' and reply.err
    if err and not (expected and string.find(err, expected, 1, true)) then
      return err .. ' (' .. select(1, ...) .. ')'
    end
  end
  -- First the write that needs memory. An entry for a key that is a hash by then is refused for that alone, after
  -- permissions and the state of the server were checked.
  local refused = try(nil, 'HSET', meta, 'probe', '') or try('WRONGTYPE', 'XADD', meta, '*', 'probe', '')
  if trims_by_age and not refused then
    refused = try('WRONGTYPE', 'XADD', meta, 'MINID', '~', '0', '*', 'probe', '')
    -- Earlier versions take the word for the entry's id.
    if refused and string.find(refused, 'stream ID', 1, true) then
      refused = 'ERR max_age needs Redis 6.2 or later: ' .. refused
    end
    refused = refused or try(nil, 'TIME') or try('WRONGTYPE', 'XTRIM', meta, 'MINID', '~', '0')
  end
  return refused or try(nil, 'HDEL', meta, 'probe')
end

