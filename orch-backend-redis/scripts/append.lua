-- Appends to streams, each item for itself.
-- KEYS: shards. ARGV: 11 values an item: number of the shard, stream, expected head, new number, new hash, lines, and of
-- the row: body, place in the listing, dag, status, wake (empty where there is none).
-- Answers for each item nothing when it landed, or else the number of the head that stands against it.
local function listings(shard, tenant, dag, status)
  local all = shard .. ':runs:' .. tenant
  return { all, all .. ':d:' .. dag, all .. ':s:' .. status, all .. ':d:' .. dag .. ':s:' .. status }
end

-- The feeds that somebody listens to, by tenant. They lie beside the first shard: where scripts reach one shard only, there are
-- none.
local feeds = {}

local function tell(shard, stream, last, hash)
  local tenant = string.match(stream, '^([^/]+)/run/')
  if not tenant then
    return
  end
  local state = KEYS[1] .. ':feeding:' .. tenant
  if feeds[tenant] == nil then
    feeds[tenant] = redis.call('EXISTS', state) == 1
  end
  if feeds[tenant] then
    local number, feed = redis.call('HINCRBY', state, 'number', 1), KEYS[1] .. ':feed:' .. tenant
    local told = shard .. ' ' .. stream .. ' ' .. last .. ' ' .. string.sub(hash, 1, 16)
    redis.call('XADD', feed, 'MAXLEN', '~', 100000, string.format('%.0f-0', number), 'a', told)
    if number == 1 then
      redis.call('EXPIRE', feed, 3600)
    end
  end
end

local answers = {}
for i = 1, #ARGV, 11 do
  local shard, stream, lines, row = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 5], ARGV[i + 6]
  local head = shard .. ':head:' .. stream
  local old = redis.call('HMGET', head, 'seq', 'hash', 'place', 'dag', 'status', 'wake')
  if ARGV[i + 2] ~= (old[1] and old[1] .. ' ' .. old[2] or '') then
    answers[#answers + 1] = old[1] or '0'
  else
    if lines ~= '' then
      redis.call('XADD', shard .. ':log:' .. stream, ARGV[i + 3] .. '-0', 'l', lines)
      tell(ARGV[i], stream, ARGV[i + 3], ARGV[i + 4])
    end
    if row == '' then
      if lines ~= '' then
        redis.call('HSET', head, 'seq', ARGV[i + 3], 'hash', ARGV[i + 4])
      end
    else
      local place, dag, status, wake = ARGV[i + 7], ARGV[i + 8], ARGV[i + 9], ARGV[i + 10]
      if place == old[3] and dag == old[4] and status == old[5] and wake == old[6] then
        redis.call('HSET', head, 'seq', ARGV[i + 3], 'hash', ARGV[i + 4], 'row', row)
      else
        local tenant = string.match(stream, '^[^/]+')
        if place ~= old[3] or dag ~= old[4] or status ~= old[5] then
          if old[3] then
            for _, listing in ipairs(listings(shard, tenant, old[4], old[5])) do
              redis.call('ZREM', listing, old[3])
            end
          end
          for _, listing in ipairs(listings(shard, tenant, dag, status)) do
            redis.call('ZADD', listing, '0', place)
          end
        end
        if wake ~= old[6] then
          if old[6] and old[6] ~= '' then
            redis.call('ZREM', shard .. ':due', old[6])
          end
          if wake ~= '' then
            redis.call('ZADD', shard .. ':due', '0', wake)
          end
        end
        redis.call('HSET', head, 'seq', ARGV[i + 3], 'hash', ARGV[i + 4], 'row', row, 'place', place, 'dag', dag,
          'status', status, 'wake', wake)
      end
    end
    answers[#answers + 1] = ''
  end
end
return answers
