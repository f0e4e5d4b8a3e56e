-- Reads one key for people: type, time to live, size, length, and the beginning of its value. So a
-- large value never leaves Redis, and a key that expires meanwhile is either whole or absent.
--
-- KEYS[1]: the key. ARGV: 1 whether to read the value, and the limits in bytes of 2 a string,
-- 3 an element, 4 all elements together; 5 the largest number of elements.
-- Replies {type}, or {type, ttl, size, length, is cut, is read, value}, or {"denied", command, why}.
local key = KEYS[1]
local most_text, most_element, budget = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most_elements = tonumber(ARGV[5])
-- Elements cannot be read in parts: those that are this large on average are not read.
local large_value, large_element = 8 * 1024 * 1024, 64 * 1024
local most_rounds = 10

local denied = nil
local function call(name, ...)
  local reply = redis.pcall(name, ...)
  if type(reply) == 'table' and reply.err then
    denied = {'denied', name, reply.err}
    error('denied')
  end
  return reply
end

local is_cut, spent = 0, 0

-- The element, or as much of it as may be shown.
local function part(text)
  if #text > most_element then
    text = string.sub(text, 1, most_element)
    is_cut = 1
  end
  spent = spent + #text
  return text
end

-- Elements in groups, such as field and value, as far as they fit.
local function parts(elements, width)
  local shown = {}
  for at = 1, #elements, width do
    if at > most_elements * width then
      is_cut = 1
      break
    end
    local group = {}
    for place = at, at + width - 1 do
      group[#group + 1] = part(elements[place])
    end
    if spent > budget then
      is_cut = 1
      break
    end
    for _, text in ipairs(group) do
      shown[#shown + 1] = text
    end
  end
  return shown
end

local function scanned(command, width)
  local found, seen, cursor = {}, {}, '0'
  for _ = 1, most_rounds do
    local reply = call(command, key, cursor, 'COUNT', most_elements)
    for at = 1, #reply[2], width do
      if not seen[reply[2][at]] then
        seen[reply[2][at]] = true
        for place = at, at + width - 1 do
          found[#found + 1] = reply[2][place]
        end
      end
    end
    cursor = reply[1]
    if cursor == '0' or #found >= most_elements * width then
      break
    end
  end
  return found
end

local function entries(length)
  local shown = {}
  for _, entry in ipairs(call('XREVRANGE', key, '+', '-', 'COUNT', most_elements)) do
    local fields = parts(entry[2], 2)
    if #fields < #entry[2] and #shown > 0 then
      break
    end
    shown[#shown + 1] = {entry[1], fields}
  end
  if #shown < length then
    is_cut = 1
  end
  return shown
end

local lengths = {
  string = 'STRLEN', list = 'LLEN', set = 'SCARD', zset = 'ZCARD', hash = 'HLEN', stream = 'XLEN',
}

local function read()
  local kind = call('TYPE', key).ok
  if kind == 'none' then
    return {kind}
  end
  local ttl = call('PTTL', key)
  local size = call('MEMORY', 'USAGE', key) or 0
  local length = lengths[kind] and call(lengths[kind], key) or -1
  local is_large = size > large_value and size / math.max(length, 1) > large_element
  if ARGV[1] ~= '1' or length < 0 or (kind ~= 'string' and is_large) then
    return {kind, ttl, size, length, 0, 0}
  end
  local value
  if kind == 'string' then
    value = call('GETRANGE', key, 0, most_text - 1)
    is_cut = length > most_text and 1 or 0
  elseif kind == 'list' then
    value = parts(call('LRANGE', key, 0, most_elements - 1), 1)
  elseif kind == 'set' then
    value = parts(scanned('SSCAN', 1), 1)
  elseif kind == 'zset' then
    value = parts(call('ZRANGE', key, 0, most_elements - 1, 'WITHSCORES'), 2)
  elseif kind == 'hash' then
    value = parts(scanned('HSCAN', 2), 2)
  else
    value = entries(length)
  end
  local width = (kind == 'zset' or kind == 'hash') and 2 or 1
  if kind ~= 'string' and kind ~= 'stream' and #value < length * width then
    is_cut = 1
  end
  return {kind, ttl, size, length, is_cut, 1, value}
end

local is_done, reply = pcall(read)
if is_done then
  return reply
end
return denied or redis.error_reply('ERR ' .. tostring(reply))
