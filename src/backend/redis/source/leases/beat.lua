-- Renews a member of the group, and takes free partitions up to its fair share.
-- KEYS: the hash of the members and the leases. ARGV: the stream's name without the partition, the owner, the number of the
-- beat, how long it lasts in ms, and the partitions that the owner reads, such as 0,1,2.
-- Beat 0 adds the member and takes nothing. Any other one only updates it, and only if its number is higher than the last
-- one's: a beat that is executed late revives nothing.
-- Returns nothing if the member was removed. Otherwise for each partition that it has: the partition, the token, whether
-- another member should get it, and whether it was taken from a member that was silent.
local key, base, owner, number = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local members, leases = {}, {}
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  local kind, name = string.match(fields[i], '^(%l+)/(.*)$')
  if kind == 'member' then
    local beat, expires, reads = string.match(fields[i + 1], '^(%d+) (%d+) (.*)$')
    members[name] = { beat = tonumber(beat), expires = tonumber(expires), reads = reads, held = 0, share = 0 }
  elseif kind == 'lease' then
    local token, by = string.match(fields[i + 1], '^(%d+) %d+ (.*)$')
    leases[string.sub(name, #base + 2)] = { token = token, owner = by }
  end
end

local me = members[owner]
if number == 0 then
  me = me or { held = 0, share = 0 }
elseif not me or me.beat >= number then
  return false
end
-- After a deletion, what a script writes is not refused for want of memory: a server that is full must not end the leases.
redis.call('HDEL', key, 'none')
me.beat, me.expires, me.reads = number, now + ARGV[4], ARGV[5]
members[owner] = me
redis.call('HSET', key, 'member/' .. owner, string.format('%.0f %.0f %s', me.beat, me.expires, me.reads))

-- How many members read each partition. A partition that several read counts as a part of one for each.
local readers = {}
for name, member in pairs(members) do
  if member.expires <= now then
    redis.call('HDEL', key, 'member/' .. name)
    members[name] = nil
  else
    local partitions = {}
    for n in string.gmatch(member.reads, '%d+') do
      partitions[n] = true
      readers[n] = (readers[n] or 0) + 1
    end
    member.reads = partitions
  end
end
for _, member in pairs(members) do
  for n in pairs(member.reads) do
    member.share = member.share + 1 / readers[n]
  end
  member.share = math.ceil(member.share - 0.001)
end
for n, lease in pairs(leases) do
  local holder = members[lease.owner]
  if holder then
    holder.held = holder.held + 1
  elseif number > 0 and not readers[n] then
    redis.call('HDEL', key, 'lease/' .. base .. '.' .. n)
  end
end

-- Another member that reads the partition and has less than its share.
local function heir(n)
  for name, member in pairs(members) do
    if name ~= owner and member.reads[n] and member.held < member.share then
      return member
    end
  end
end

local mine, order = {}, {}
for n in pairs(me.reads) do
  order[#order + 1] = n
end
-- Those first that few members read.
table.sort(order, function(a, b)
  if readers[a] ~= readers[b] then
    return readers[a] < readers[b]
  end
  return tonumber(a) < tonumber(b)
end)
for _, n in ipairs(order) do
  local lease = leases[n]
  local is_free = not lease or not members[lease.owner]
  if number > 0 and is_free and (me.held < me.share or not heir(n)) then
    local token = redis.call('HINCRBY', key, 'counter', 1)
    redis.call('HSET', key, 'lease/' .. base .. '.' .. n, string.format('%.0f 0 %s', token, owner))
    leases[n] = { token = token, owner = owner, is_taken_over = lease and 1 or 0 }
    me.held = me.held + 1
  end
end
for n, lease in pairs(leases) do
  if lease.owner == owner then
    mine[#mine + 1] = { tonumber(n), tonumber(lease.token), 0, lease.is_taken_over or 0 }
  end
end
table.sort(mine, function(a, b)
  return a[1] > b[1]
end)
for _, lease in ipairs(mine) do
  local other = me.held > me.share and heir(string.format('%.0f', lease[1]))
  if other then
    me.held, other.held = me.held - 1, other.held + 1
    lease[3] = 1
  end
end
return mine
