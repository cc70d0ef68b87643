-- The reason why Redis would refuse a batch now; nil if it would accept one. The test leaves no data behind.
local function refusal(meta)
  local function try(expected, ...)
    local reply = redis.pcall(...)
    local err = type(reply) == 'table' and reply.err
    if err and string.match(err, '^%-?(%u+)') ~= expected then
      return err .. ' (' .. select(1, ...) .. ')'
    end
  end
  -- First the write that needs memory. An entry for a key that is a hash by then is refused for that alone, after
  -- permissions and the state of the server were checked.
  return try(nil, 'HSET', meta, 'probe', '')
    or try('WRONGTYPE', 'XADD', meta, '*', 'probe', '')
    or try(nil, 'HDEL', meta, 'probe')
end

