-- The rows of runs. KEYS: shards. ARGV: 2 values a run: number of the shard, stream.
local rows = {}
for i = 1, #ARGV, 2 do
  rows[#rows + 1] = redis.call('HGET', KEYS[tonumber(ARGV[i])] .. ':head:' .. ARGV[i + 1], 'row') or ''
end
return rows
