-- Gives back all that each holder holds. KEYS: the tenant's slots. ARGV: holders.
local l = KEYS[1]
for _, holder in ipairs(ARGV) do
  for _, key in ipairs(redis.call('SMEMBERS', l .. ':holder:' .. holder)) do
    redis.call('HDEL', l .. ':slot:' .. key, holder)
  end
  redis.call('DEL', l .. ':holder:' .. holder)
end
return 0
