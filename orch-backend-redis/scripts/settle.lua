-- Ends deliveries. KEYS: the tenant's queue. ARGV: now, the channel to tell, then 3 values a delivery: id, name of the
-- claim, and the instant at which the item is ready again (empty when it is done). Answers 1 for each that ended.
local q, now, ids, answers, n = KEYS[1], ARGV[1], {}, {}, 0
for i = 3, #ARGV, 3 do
  n = n + 1
  ids[n] = ARGV[i]
end
local known = redis.call('HMGET', q .. ':items', unpack(ids))
local ended, leases, done, released, delayed = {}, {}, {}, {}, {}
for i = 1, n do
  local id, item, name, at = ids[i], known[i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  answers[i] = 0
  if item and not ended[id] and string.sub(item, 1, 16) > now and string.sub(item, 17, 17 + #name) == name .. '|' then
    answers[i], ended[id] = 1, true
    leases[#leases + 1] = string.sub(item, 1, 16) .. id
    if at == '' then
      done[#done + 1] = id
    else
      local count, queue, place = string.match(item, '|(%d+)|([^ ]+) (.*)$')
      place = string.sub(place, 1, 8) .. at .. string.sub(place, 25)
      released[#released + 1] = id
      released[#released + 1] = '0000000000000000|' .. count .. '|' .. queue .. ' ' .. place
      delayed[#delayed + 1] = '0'
      delayed[#delayed + 1] = at .. queue .. ' ' .. place
    end
  end
end
if #leases > 0 then
  redis.call('ZREM', q .. ':leased', unpack(leases))
end
if #done > 0 then
  redis.call('HDEL', q .. ':items', unpack(done))
  if redis.call('EXISTS', q .. ':items') == 0 then
    redis.call('DEL', q .. ':now', q .. ':queues')
  end
end
if #released > 0 then
  redis.call('HSET', q .. ':items', unpack(released))
  redis.call('ZADD', q .. ':delayed', unpack(delayed))
  redis.call('PUBLISH', ARGV[2], '')
end
return answers
