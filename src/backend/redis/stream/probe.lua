-- Asks whether Redis would take a batch now.
-- KEYS  the meta key; the stream, if there is only one
local refused = refusal(KEYS[1])
if refused then return redis.error_reply(refused) end
return redis.status_reply('OK')
