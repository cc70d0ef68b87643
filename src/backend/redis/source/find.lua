-- Finds an entry by its fields, near an id: among entries before it, newest first, and then among those behind it.
-- KEYS: the stream. ARGV: the id, or + for the end of the stream; the most entries on each side; the number of values that are
-- returned, and their names; then names and values. An entry must have the first of these, and may lack the others.
-- Returns the entry's id and the values, each empty if there is none; or nothing.
local stream, at, most, count = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function read(entry)
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  for i = 4 + count, #ARGV, 2 do
    local value = fields[ARGV[i]]
    if value ~= ARGV[i + 1] and (value or i == 4 + count) then
      return nil
    end
  end
  local values = {}
  for i = 1, count do
    values[i] = fields[ARGV[3 + i]] or ''
  end
  return { entry[1], values }
end

local function search(command, from, to)
  local left = most
  while left > 0 do
    -- Entries may be large.
    local page = redis.call(command, stream, from, to, 'COUNT', math.min(left, 20))
    if not page[1] then
      return nil
    end
    for _, entry in ipairs(page) do
      local found = read(entry)
      if found then
        return found
      end
      from = '(' .. entry[1]
    end
    left = left - #page
  end
end

return search('XREVRANGE', at, '-') or (at ~= '+' and search('XRANGE', '(' .. at, '+')) or false
