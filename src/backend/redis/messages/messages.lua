-- Sends events in order, until Redis refuses one.
-- KEYS  the lists; none for channels
-- ARGV  RPUSH or PUBLISH; for each event: its list or channel, the CloudEvent
-- Returns { 'sent' } or { 'stopped', events sent, error }.
local command = ARGV[1]
for at = 2, #ARGV, 2 do
  local reply = redis.pcall(command, ARGV[at], ARGV[at + 1])
  if type(reply) == 'table' and reply.err then
    return { 'stopped', (at - 2) / 2, reply.err }
  end
end
return { 'sent' }
