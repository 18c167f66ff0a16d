-- Replaces a value if it is what it was. KEYS: the key. ARGV: the old value (empty when there was none), the new one, and
-- for how long to keep it (milliseconds; empty for ever). Answers whether it was replaced.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
