-- Deletes runs that have ended and whose head is the one named. KEYS: shards. ARGV: the words for an end, with spaces
-- around each; then 3 values a run: number of the shard, stream, head. Answers how many went.
local gone = 0
for i = 2, #ARGV, 3 do
  local shard, stream = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local head = shard .. ':head:' .. stream
  local at = redis.call('HMGET', head, 'seq', 'hash', 'place', 'dag', 'status', 'wake')
  local ended = not at[5] or string.find(ARGV[1], ' ' .. at[5] .. ' ', 1, true)
  if ended and at[1] and at[1] .. ' ' .. at[2] == ARGV[i + 2] then
    if at[3] then
      local all = shard .. ':runs:' .. string.match(stream, '^[^/]+')
      for _, listing in ipairs({ '', ':d:' .. at[4], ':s:' .. at[5], ':d:' .. at[4] .. ':s:' .. at[5] }) do
        redis.call('ZREM', all .. listing, at[3])
      end
      if at[6] ~= '' then
        redis.call('ZREM', shard .. ':due', at[6])
      end
    end
    redis.call('DEL', head, shard .. ':log:' .. stream)
    gone = gone + 1
  end
end
return gone
