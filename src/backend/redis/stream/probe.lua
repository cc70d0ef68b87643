-- Asks whether Redis would take a batch now.
-- KEYS  the meta key; the stream or its partitions, unless streams are by template
-- ARGV  whether batches are trimmed by age, 1 or 0
local refused = refusal(KEYS[1], ARGV[1] == '1')
if refused then return redis.error_reply(refused) end
return redis.status_reply('OK')
