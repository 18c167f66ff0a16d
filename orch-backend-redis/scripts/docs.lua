-- Reads documents by key. KEYS: their shard. ARGV: tenant and kind, after which key, how many. Answers key and document
-- (version, space, body) by turns.
local found = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', KEYS[1] .. ':docs:' .. ARGV[1], ARGV[2], '+', 'LIMIT', 0, ARGV[3])) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('HGET', KEYS[1] .. ':doc:' .. ARGV[1], key)
end
return found
