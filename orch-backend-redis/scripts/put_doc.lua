-- Writes a document. KEYS: its shard. ARGV: tenant and kind, key, the version it must have (or empty), body (or empty to
-- delete it). Answers whether it was written, and the version it has or had.
local docs, index = KEYS[1] .. ':doc:' .. ARGV[1], KEYS[1] .. ':docs:' .. ARGV[1]
local old = redis.call('HGET', docs, ARGV[2])
local version = old and string.match(old, '^%d+') or '0'
if ARGV[3] ~= '' and ARGV[3] ~= version then
  return { '', version }
end
if ARGV[4] == '' then
  redis.call('HDEL', docs, ARGV[2])
  redis.call('ZREM', index, ARGV[2])
  return { 'written', '0' }
end
version = string.format('%.0f', tonumber(version) + 1)
redis.call('HSET', docs, ARGV[2], version .. ' ' .. ARGV[4])
redis.call('ZADD', index, '0', ARGV[2])
return { 'written', version }
