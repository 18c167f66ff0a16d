-- Leases the first items of a tenant. KEYS: the tenant's queue. ARGV: now, end of the lease, how many, name of the claim,
-- then the asked queues; none means all.
-- Answers the next instant at which something becomes ready or comes back (or nothing), whether the tenant has any item
-- at all, then queue, place and count of each leased item.
local q, now, until_, wanted, name = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
-- Values in one call; Lua has no room for more than some thousands.
local MANY = 1000

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

-- Calls a command with many values, some at a time.
local function call(command, key, values)
  for i = 1, #values, MANY do
    redis.call(command, key, unpack(values, i, math.min(i + MANY - 1, #values)))
  end
end

-- A place ends with the item's id and the length of that in 4 digits.
local function id_of(place)
  return string.sub(place, -4 - tonumber(string.sub(place, -4), 16), -5)
end

local function add_ready(lanes)
  for queue, lane in pairs(lanes) do
    call('ZADD', q .. ':ready:' .. queue, lane)
  end
end

local function enter(lanes, queue, place)
  local lane = lanes[queue]
  if not lane then
    lane = {}
    lanes[queue] = lane
  end
  lane[#lane + 1] = 0
  lane[#lane + 1] = place
end

if now > (redis.call('GET', q .. ':now') or '') then
  redis.call('SET', q .. ':now', now, 'PX', 86400000)
end
-- `~` sorts after every character of a queue and a place.
local lanes = {}
local due = redis.call('ZRANGEBYLEX', q .. ':delayed', '-', '(' .. now .. '~')
for _, item in ipairs(due) do
  local space = string.find(item, ' ', 17, true)
  enter(lanes, string.sub(item, 17, space - 1), string.sub(item, space + 1))
end
if #due > 0 then
  redis.call('ZREMRANGEBYLEX', q .. ':delayed', '-', '(' .. now .. '~')
end
local ended = redis.call('ZRANGEBYLEX', q .. ':leased', '-', '(' .. now .. '~')
for _, lease in ipairs(ended) do
  local id = string.sub(lease, 17)
  local item = redis.call('HGET', q .. ':items', id)
  local rest = item and string.match(item, '|.*$')
  if rest then
    redis.call('HSET', q .. ':items', id, '0000000000000000' .. rest)
    enter(lanes, string.match(rest, '^|%d+|([^ ]+) (.*)$'))
  end
end
if #ended > 0 then
  redis.call('ZREMRANGEBYLEX', q .. ':leased', '-', '(' .. now .. '~')
end
add_ready(lanes)

local queues, seen = {}, {}
for i = 5, #ARGV do
  if not seen[ARGV[i]] then
    seen[ARGV[i]] = true
    queues[#queues + 1] = ARGV[i]
  end
end
if #ARGV == 4 then
  queues = redis.call('SMEMBERS', q .. ':queues')
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
for from = 1, math.min(wanted, #first), MANY do
  local ids, taken, leased, items = {}, {}, {}, {}
  for i = from, math.min(from + MANY - 1, wanted, #first) do
    local place, queue = first[i][1], first[i][2]
    ids[#ids + 1] = id_of(place)
    if not taken[queue] then
      taken[queue] = {}
    end
    table.insert(taken[queue], place)
  end
  for queue, places in pairs(taken) do
    redis.call('ZREM', q .. ':ready:' .. queue, unpack(places))
  end
  for n, item in ipairs(redis.call('HMGET', q .. ':items', unpack(ids))) do
    -- A place without its item is what eviction leaves.
    if item then
      local place, queue = first[from + n - 1][1], first[from + n - 1][2]
      local count = string.format('%d', string.match(item, '|(%d+)|') + 1)
      leased[#leased + 1] = 0
      leased[#leased + 1] = until_ .. ids[n]
      items[#items + 1] = ids[n]
      items[#items + 1] = until_ .. name .. '|' .. count .. '|' .. queue .. ' ' .. place
      answer[#answer + 1] = queue
      answer[#answer + 1] = place
      answer[#answer + 1] = count
    end
  end
  if #items > 0 then
    redis.call('ZADD', q .. ':leased', unpack(leased))
    redis.call('HSET', q .. ':items', unpack(items))
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
