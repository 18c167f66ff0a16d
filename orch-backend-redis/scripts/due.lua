-- The first runs of each shard that are due. KEYS: shards. ARGV: after which, until when (both as in the index), how many.
-- Answers two lists: the places of the runs, and the first place of each shard beyond the instant.
local due, beyond = {}, {}
for _, shard in ipairs(KEYS) do
  for _, place in ipairs(redis.call('ZRANGEBYLEX', shard .. ':due', ARGV[1], '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])) do
    due[#due + 1] = place
  end
  for _, place in ipairs(redis.call('ZRANGEBYLEX', shard .. ':due', '[' .. ARGV[2], '+', 'LIMIT', 0, 1)) do
    beyond[#beyond + 1] = place
  end
end
return { due, beyond }
