-- Why Redis would refuse a batch now; nil where it would take one. Nothing is left of the question.
local function refusal(meta)
  local function try(expected, ...)
    local reply = redis.pcall(...)
    local err = type(reply) == 'table' and reply.err
    if err and string.match(err, '^%-?(%u+)') ~= expected then
      return err .. ' (' .. select(1, ...) .. ')'
    end
  end
  -- First the write for which there has to be memory. An entry for what is a hash by then is refused for that alone, after
  -- rights and the state of the server were looked at.
  return try(nil, 'HSET', meta, 'probe', '')
    or try('WRONGTYPE', 'XADD', meta, '*', 'probe', '')
    or try(nil, 'HDEL', meta, 'probe')
end

