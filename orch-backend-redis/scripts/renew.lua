-- Prolongs leases. KEYS: the tenant's queue. ARGV: now, until when, then 2 values a delivery: id, name of the claim.
-- Answers 1 for each that was prolonged.
local q, now, answers = KEYS[1], ARGV[1], {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local item = redis.call('HGET', q .. ':items', id)
  local count, queue, name, until_, place = string.match(item or '', '^(%d+)|([^|]*)|([^|]*)|([^|]*)|(.*)$')
  if not count or name ~= ARGV[i + 1] or name == '' or until_ <= now then
    answers[#answers + 1] = 0
  else
    redis.call('ZREM', q .. ':leased', until_ .. id)
    redis.call('ZADD', q .. ':leased', 0, ARGV[2] .. id)
    redis.call('HSET', q .. ':items', id, count .. '|' .. queue .. '|' .. name .. '|' .. ARGV[2] .. '|' .. place)
    answers[#answers + 1] = 1
  end
end
return answers
