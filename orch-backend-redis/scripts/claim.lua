-- Leases the first items of a tenant. KEYS: the tenant's queue. ARGV: now, end of the lease, how many, name of the claim,
-- then the asked queues; none means all.
-- Answers the next instant at which something becomes ready or comes back (or nothing), whether the tenant has any item
-- at all, then queue, place and count of each leased item.
local q, now, until_, wanted, name = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

-- Byte by byte: `<` would go by the server's locale, which is fit for digits only.
local function precedes(one, other)
  for i = 1, math.min(#one, #other) do
    local x, y = string.byte(one, i), string.byte(other, i)
    if x ~= y then
      return x < y
    end
  end
  return #one < #other
end

local function ready(queue, place)
  redis.call('ZADD', q .. ':ready:' .. queue, 0, place)
end

if now > (redis.call('GET', q .. ':now') or '') then
  redis.call('SET', q .. ':now', now, 'PX', 86400000)
end
-- `~` sorts after every character of a queue and a place.
local due = redis.call('ZRANGEBYLEX', q .. ':delayed', '-', '(' .. now .. '~')
for _, item in ipairs(due) do
  ready(string.match(item, '^(.-) ', 17), string.match(item, ' (.*)$', 17))
end
if #due > 0 then
  redis.call('ZREMRANGEBYLEX', q .. ':delayed', '-', '(' .. now .. '~')
end
local ended = redis.call('ZRANGEBYLEX', q .. ':leased', '-', '(' .. now .. '~')
for _, lease in ipairs(ended) do
  local id = string.sub(lease, 17)
  local item = redis.call('HGET', q .. ':items', id) or ''
  local count, queue, place = string.match(item, '^(%d+)|([^|]*)|[^|]*|[^|]*|(.*)$')
  if count then
    redis.call('HSET', q .. ':items', id, count .. '|' .. queue .. '|||' .. place)
    ready(queue, place)
  end
end
if #ended > 0 then
  redis.call('ZREMRANGEBYLEX', q .. ':leased', '-', '(' .. now .. '~')
end

local queues = {}
if #ARGV > 4 then
  local seen = {}
  for i = 5, #ARGV do
    if not seen[ARGV[i]] then
      seen[ARGV[i]] = true
      queues[#queues + 1] = ARGV[i]
    end
  end
else
  queues = redis.call('HKEYS', q .. ':lanes')
end
-- The first places of each queue, merged. Ready items that are not, for a clock that is behind, are passed over.
local first = {}
for _, queue in ipairs(queues) do
  local found, from, page = 0, 0, nil
  repeat
    page = redis.call('ZRANGE', q .. ':ready:' .. queue, from, from + wanted - 1)
    for _, place in ipairs(page) do
      if found < wanted and string.sub(place, 9, 24) <= now then
        first[#first + 1] = { place, queue }
        found = found + 1
      end
    end
    from = from + wanted
  until wanted == 0 or found == wanted or #page < wanted
end
if #queues > 1 then
  table.sort(first, function(one, other) return precedes(one[1], other[1]) end)
end
local answer = { '', redis.call('EXISTS', q .. ':items') }
for i = 1, math.min(wanted, #first) do
  local place, queue = first[i][1], first[i][2]
  local id = string.match(place, '[^ ]+$')
  redis.call('ZREM', q .. ':ready:' .. queue, place)
  local item = redis.call('HGET', q .. ':items', id)
  -- A place without its item is what eviction leaves.
  if item then
    local count = tonumber(string.match(item, '^%d+')) + 1
    redis.call('ZADD', q .. ':leased', 0, until_ .. id)
    redis.call('HSET', q .. ':items', id, count .. '|' .. queue .. '|' .. name .. '|' .. until_ .. '|' .. place)
    answer[#answer + 1] = queue
    answer[#answer + 1] = place
    answer[#answer + 1] = tostring(count)
  end
end
local next_ = ''
for _, index in ipairs({ ':delayed', ':leased' }) do
  local at = redis.call('ZRANGE', q .. index, 0, 0)[1]
  at = at and string.sub(at, 1, 16)
  if at and (next_ == '' or at < next_) then
    next_ = at
  end
end
answer[1] = next_
return answer
