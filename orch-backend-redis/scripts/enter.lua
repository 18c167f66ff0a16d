-- Puts a tenant into the register with the number of the push, as push.lua does where both lie on one node, and tells of it.
-- KEYS: the register. ARGV: tenant, the channel to tell.
redis.call('ZADD', KEYS[1], redis.call('INCR', KEYS[1] .. ':pushes'), ARGV[1])
redis.call('PUBLISH', ARGV[2], '')
return 0
