-- Prolongs leases. KEYS: the tenant's queue. ARGV: now, until when, then 2 values a delivery: id, name of the claim.
-- Answers 1 for each that was prolonged.
local q, now, until_, ids, answers = KEYS[1], ARGV[1], ARGV[2], {}, {}
for i = 3, #ARGV, 2 do
  ids[#ids + 1] = ARGV[i]
end
local old, leases, items = {}, {}, {}
for n, item in ipairs(redis.call('HMGET', q .. ':items', unpack(ids))) do
  local id, name = ids[n], ARGV[2 * n + 2]
  answers[n] = 0
  if item and string.sub(item, 1, 16) > now and string.sub(item, 17, 17 + #name) == name .. '|' then
    answers[n] = 1
    old[#old + 1] = string.sub(item, 1, 16) .. id
    leases[#leases + 1] = '0'
    leases[#leases + 1] = until_ .. id
    items[#items + 1] = id
    items[#items + 1] = until_ .. string.sub(item, 17)
  end
end
if #old > 0 then
  redis.call('ZREM', q .. ':leased', unpack(old))
  redis.call('ZADD', q .. ':leased', unpack(leases))
  redis.call('HSET', q .. ':items', unpack(items))
end
return answers
