-- Strikes a tenant off the register if nobody has pushed for it since it was found empty. KEYS: the register. ARGV:
-- tenant, and the number of its last push as it was read before.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
