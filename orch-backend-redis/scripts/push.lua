-- Adds items to a tenant's queues unless they are there. KEYS: the tenant's queue and, unless it lies on another node,
-- the register of tenants. ARGV: tenant, the channel to tell, then 4 values an item: id, queue, ready time, place.
-- An item is kept as the end of its lease (zeros without one), name of the claim, count, queue and place:
-- `LEASE NAME|COUNT|QUEUE PLACE`, the lease in 16 digits without a space after it. Answers how many were new.
local q, ids = KEYS[1], {}
for i = 3, #ARGV, 4 do
  ids[#ids + 1] = ARGV[i]
end
local known = redis.call('HMGET', q .. ':items', unpack(ids))
local latest = redis.call('GET', q .. ':now') or ''
local fresh, items, delayed, lanes, queues = {}, {}, {}, {}, {}
for n, id in ipairs(ids) do
  if not known[n] and not fresh[id] then
    fresh[id] = true
    local queue, ready, place = ARGV[4 * n], ARGV[4 * n + 1], ARGV[4 * n + 2]
    local lane = lanes[queue]
    if not lane then
      lane = {}
      lanes[queue] = lane
      queues[#queues + 1] = queue
    end
    items[#items + 1] = id
    items[#items + 1] = '0000000000000000|0|' .. queue .. ' ' .. place
    if ready <= latest then
      lane[#lane + 1] = 0
      lane[#lane + 1] = place
    else
      delayed[#delayed + 1] = 0
      delayed[#delayed + 1] = ready .. queue .. ' ' .. place
    end
  end
end
if #items > 0 then
  redis.call('HSET', q .. ':items', unpack(items))
  redis.call('SADD', q .. ':queues', unpack(queues))
  for queue, lane in pairs(lanes) do
    if #lane > 0 then
      redis.call('ZADD', q .. ':ready:' .. queue, unpack(lane))
    end
  end
  if #delayed > 0 then
    redis.call('ZADD', q .. ':delayed', unpack(delayed))
  end
end
if KEYS[2] then
  redis.call('ZINCRBY', KEYS[2], 1, ARGV[1])
end
if #items > 0 then
  redis.call('PUBLISH', ARGV[2], '')
end
return #items / 2
