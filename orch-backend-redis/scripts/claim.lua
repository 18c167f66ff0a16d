-- Leases the first items of a tenant. KEYS: the tenant's queue. ARGV: now, end of the lease, how many, name of the claim,
-- then the asked queues; none means all.
-- Answers the next instant at which something becomes ready or comes back (or nothing), how full the tenant's queue is (0
-- without any item at all, 2 when more is ready although fewer than asked for are leased), then queue, place and count of
-- each leased item.
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

local function add_ready(lanes)
  for queue, lane in pairs(lanes) do
    call('ZADD', q .. ':ready:' .. queue, lane)
  end
end

local sizes = {}
local function enter(lanes, queue, place)
  local lane, size = lanes[queue], sizes[queue] or 0
  if not lane then
    lane = {}
    lanes[queue] = lane
  end
  lane[size + 1], lane[size + 2] = '0', place
  sizes[queue] = size + 2
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
  -- An index that outlived its items, which is what eviction leaves, may tell of another lease.
  local rest = item and string.sub(item, 1, 16) == string.sub(lease, 1, 16) and string.match(item, '|.*$')
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
-- The first places of each queue, merged, one more than asked for, and the queue of each. Ready items that are not, for a
-- clock that is behind, are passed over.
local first, queue_of, size, most = {}, {}, 0, wanted > 0 and wanted + 1 or 0
for _, queue in ipairs(queues) do
  local found, from, page = 0, 0, nil
  repeat
    page = redis.call('ZRANGE', q .. ':ready:' .. queue, from, from + most - 1)
    for _, place in ipairs(page) do
      if found < most and string.sub(place, 9, 24) <= now then
        found, size = found + 1, size + 1
        first[size], queue_of[place] = place, queue
      end
    end
    from = from + most
  until most == 0 or found == most or #page < most
end
if #queues > 1 then
  table.sort(first, precedes)
end
-- What became ready together in one run is not divided between two claims, as long as that leaves half of what was asked
-- for: two workers would only get into each other's way.
local function together(place)
  local space = string.find(place, ' ', 25, true)
  return string.sub(place, 1, space + 32)
end
local fullness = redis.call('EXISTS', q .. ':items')
if size > wanted then
  local whole, run = wanted, together(first[wanted + 1])
  while whole > 0 and together(first[whole]) == run do
    whole = whole - 1
  end
  if whole < wanted and whole * 2 >= wanted then
    wanted, fullness = whole, 2
  end
end
local answer, answered = { '', fullness }, 2
for from = 1, math.min(wanted, size), MANY do
  local last = math.min(from + MANY - 1, wanted, size)
  local ids, taken, leased, items, n = {}, {}, {}, {}, 0
  for i = from, last do
    local place = first[i]
    local queue = queue_of[place]
    -- A place ends with the item's id.
    ids[i - from + 1] = string.sub(place, -32)
    local lane = taken[queue]
    if not lane then
      lane = {}
      taken[queue] = lane
    end
    lane[#lane + 1] = place
  end
  for queue, places in pairs(taken) do
    redis.call('ZREM', q .. ':ready:' .. queue, unpack(places))
  end
  local known = redis.call('HMGET', q .. ':items', unpack(ids))
  for i = from, last do
    local id, item = ids[i - from + 1], known[i - from + 1]
    -- A place without its item, or with one that stands elsewhere, is what eviction leaves.
    if item and string.find(item, '0000000000000000', 1, true) == 1 and string.find(item, first[i], 17, true) then
      local place = first[i]
      local queue, count = queue_of[place], string.match(item, '|(%d+)|')
      count = count == '0' and '1' or string.format('%d', count + 1)
      leased[n + 1], leased[n + 2] = '0', until_ .. id
      items[n + 1], items[n + 2] = id, until_ .. name .. '|' .. count .. '|' .. queue .. ' ' .. place
      n = n + 2
      answer[answered + 1], answer[answered + 2], answer[answered + 3] = queue, place, count
      answered = answered + 3
    end
  end
  if n > 0 then
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
