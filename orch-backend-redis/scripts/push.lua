-- Adds items to a tenant's queues unless they are there. KEYS: the tenant's queue and, unless it lies on another node,
-- the register of tenants. ARGV: tenant, the channel to tell, then 4 values an item: id, queue, ready time, place.
-- An item is kept as the end of its lease (zeros without one), name of the claim, count, queue and place:
-- `LEASE NAME|COUNT|QUEUE PLACE`, the lease in 16 digits without a space after it. Answers how many were new.
-- An item that is there, but in no index, is put back: a server that evicts keys takes them one by one.
local q, ids, n = KEYS[1], {}, 0
for i = 3, #ARGV, 4 do
  n = n + 1
  ids[n] = ARGV[i]
end
local known = redis.call('HMGET', q .. ':items', unpack(ids))
local latest = redis.call('GET', q .. ':now') or ''
local fresh, items, delayed, lanes, sizes, queues = {}, {}, {}, {}, {}, {}
local new, late = 0, 0

local function lane_of(queue)
  local lane = lanes[queue]
  if not lane then
    lane = {}
    lanes[queue], sizes[queue] = lane, 0
    queues[#queues + 1] = queue
  end
  return lane
end

local function put_back(id, item)
  local lease, queue, place = string.sub(item, 1, 16), string.match(item, '|%d+|([^ ]+) (.*)$')
  lane_of(queue)
  if lease ~= '0000000000000000' then
    redis.call('ZADD', q .. ':leased', '0', lease .. id)
  elseif not redis.call('ZSCORE', q .. ':ready:' .. queue, place) then
    -- Whatever is due leaves this index before anything is leased, so that nothing stands in both for long.
    delayed[late + 1], delayed[late + 2] = '0', string.sub(place, 9, 24) .. queue .. ' ' .. place
    late = late + 2
  end
end

for i = 1, n do
  local id = ids[i]
  if known[i] then
    put_back(id, known[i])
  elseif not fresh[id] then
    fresh[id] = true
    local queue, ready, place = ARGV[4 * i], ARGV[4 * i + 1], ARGV[4 * i + 2]
    local lane = lane_of(queue)
    items[new + 1], items[new + 2] = id, '0000000000000000|0|' .. queue .. ' ' .. place
    new = new + 2
    if ready <= latest then
      local size = sizes[queue]
      lane[size + 1], lane[size + 2] = '0', place
      sizes[queue] = size + 2
    else
      delayed[late + 1], delayed[late + 2] = '0', ready .. queue .. ' ' .. place
      late = late + 2
    end
  end
end
if new > 0 then
  redis.call('HSET', q .. ':items', unpack(items))
end
if #queues > 0 then
  redis.call('SADD', q .. ':queues', unpack(queues))
end
for queue, lane in pairs(lanes) do
  if sizes[queue] > 0 then
    redis.call('ZADD', q .. ':ready:' .. queue, unpack(lane))
  end
end
if late > 0 then
  redis.call('ZADD', q .. ':delayed', unpack(delayed))
end
if KEYS[2] then
  -- The number of the push: no two have the same one, also after the tenant was struck off.
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[2] .. ':pushes'), ARGV[1])
end
if new > 0 then
  redis.call('PUBLISH', ARGV[2], '')
end
return new / 2
