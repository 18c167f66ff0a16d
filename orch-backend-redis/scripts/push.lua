-- Adds items to a tenant's queues unless they are there. KEYS: the tenant's queue and, unless it lies on another node,
-- the register of tenants. ARGV: tenant, the channel to tell, then 4 values an item: id, queue, ready time, place.
-- Answers how many were new.
local q, fresh = KEYS[1], 0
local latest = redis.call('GET', q .. ':now') or ''
for i = 3, #ARGV, 4 do
  local id, queue, ready, place = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HSETNX', q .. ':items', id, '0|' .. queue .. '|||' .. place) == 1 then
    redis.call('HINCRBY', q .. ':lanes', queue, 1)
    if ready <= latest then
      redis.call('ZADD', q .. ':ready:' .. queue, 0, place)
    else
      redis.call('ZADD', q .. ':delayed', 0, ready .. queue .. ' ' .. place)
    end
    fresh = fresh + 1
  end
end
if KEYS[2] then
  redis.call('ZINCRBY', KEYS[2], 1, ARGV[1])
end
if fresh > 0 then
  redis.call('PUBLISH', ARGV[2], '')
end
return fresh
