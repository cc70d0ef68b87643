-- Reads new entries of leased streams.
-- KEYS: the hash of the leases, then the streams. ARGV: the group, this consumer, the owner, the most entries of a stream, then
-- for each stream its partition, the token of the lease, and the number of its claim: a read that is executed after the
-- next claim would leave entries behind that are not read before the lease ends.
-- Returns the numbers of the streams that are refused, and the entries of the others.
local streams, refused = {}, {}
for i = 2, #KEYS do
  local at = 3 * i - 1
  local held, claim = is_held(KEYS[1], ARGV[at], ARGV[3], ARGV[at + 1])
  if held and claim == tonumber(ARGV[at + 2]) then
    streams[#streams + 1] = KEYS[i]
  else
    refused[#refused + 1] = i - 2
  end
end
local count = #streams
if count == 0 then
  return { refused, {} }
end
for i = 1, count do
  streams[count + i] = '>'
end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[4], 'STREAMS', unpack(streams))
return { refused, read or {} }
