-- Whether a partition's lease is one owner's, under this token. A lease is written as its token, the number of its last claim,
-- and its owner.
local function is_held(leases, partition, owner, token)
  local lease = redis.call('HGET', leases, 'lease/' .. partition)
  local held, claim, by = string.match(lease or '', '^(%d+) (%d+) (.*)$')
  return by == owner and held == token, tonumber(claim)
end
