-- Ends deliveries. KEYS: the tenant's queue. ARGV: now, the channel to tell, then 3 values a delivery: id, name of the
-- claim, and the instant at which the item is ready again (empty when it is done). Answers 1 for each that ended.
local q, now, answers, released = KEYS[1], ARGV[1], {}, false
for i = 3, #ARGV, 3 do
  local id, at = ARGV[i], ARGV[i + 2]
  local item = redis.call('HGET', q .. ':items', id)
  local count, queue, name, until_, place = string.match(item or '', '^(%d+)|([^|]*)|([^|]*)|([^|]*)|(.*)$')
  if not count or name ~= ARGV[i + 1] or name == '' or until_ <= now then
    answers[#answers + 1] = 0
  else
    redis.call('ZREM', q .. ':leased', until_ .. id)
    if at == '' then
      redis.call('HDEL', q .. ':items', id)
      if redis.call('HINCRBY', q .. ':lanes', queue, -1) == 0 then
        redis.call('HDEL', q .. ':lanes', queue)
      end
    else
      place = string.sub(place, 1, 8) .. at .. string.sub(place, 25)
      redis.call('HSET', q .. ':items', id, count .. '|' .. queue .. '|||' .. place)
      redis.call('ZADD', q .. ':delayed', 0, at .. queue .. ' ' .. place)
      released = true
    end
    answers[#answers + 1] = 1
  end
end
if released then
  redis.call('PUBLISH', ARGV[2], '')
end
if redis.call('EXISTS', q .. ':items') == 0 then
  redis.call('DEL', q .. ':now')
end
return answers
