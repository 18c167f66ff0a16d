-- The first places of a listing in each shard. KEYS: shards. ARGV: listing, from, to, how many.
local places = {}
for _, shard in ipairs(KEYS) do
  for _, place in ipairs(redis.call('ZRANGEBYLEX', shard .. ARGV[1], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])) do
    places[#places + 1] = place
  end
end
return places
