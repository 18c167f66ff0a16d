-- Reads the feed of a tenant. KEYS: all shards. ARGV: tenant, a name for the feed if there is none yet, the name of the
-- cursor's feed (empty for the present end), the number after which to read, how many appends, how many bytes.
-- Answers nothing where the feed does not reach to the cursor; or else name and present number, and for each append its
-- number, stream, the beginning of the hash of its last entry, and its lines (empty where they are gone).
local kept = 3600
local state_key, feed = KEYS[1] .. ':feeding:' .. ARGV[1], KEYS[1] .. ':feed:' .. ARGV[1]
local state = redis.call('HMGET', state_key, 'name', 'number')
if not state[1] then
  -- Nothing was told while nobody listened, so an older cursor leads nowhere.
  redis.call('DEL', feed)
  redis.call('HSET', state_key, 'name', ARGV[2], 'number', '0')
  state = { ARGV[2], '0' }
end
redis.call('EXPIRE', state_key, kept)
redis.call('EXPIRE', feed, kept)
local page = { state[1], state[2] }
if ARGV[3] == '' then
  return page
end
local after, number = tonumber(ARGV[4]), tonumber(state[2])
if ARGV[3] ~= state[1] or after > number then
  return {}
end
local found = redis.call('XRANGE', feed, '(' .. ARGV[4] .. '-0', '+', 'COUNT', ARGV[5])
if number > after and (not found[1] or found[1][1] ~= string.format('%.0f-0', after + 1)) then
  return {}
end
local bytes = 0
for _, told in ipairs(found) do
  local shard, stream, last, hash = string.match(told[2][2], '^(%d+) (%S+) (%d+) (%x+)$')
  local append = redis.call('XRANGE', KEYS[tonumber(shard)] .. ':log:' .. stream, last, last)[1]
  local lines = append and append[2][2] or ''
  bytes = bytes + #lines
  for _, value in ipairs({ string.match(told[1], '^%d+'), stream, hash, lines }) do
    page[#page + 1] = value
  end
  if bytes > tonumber(ARGV[6]) then
    break
  end
end
return page
