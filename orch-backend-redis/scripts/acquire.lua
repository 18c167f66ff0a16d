-- Takes slots for a holder: all or none. KEYS: the tenant's slots. ARGV: now, end of the lease, holder, how long nobody
-- asks until all is forgotten (milliseconds), now in microseconds, then 2 values a slot: key, capacity.
-- Answers nothing when a slot is missing, or else the fence of each.
local l, now, until_, holder, keep = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function release(name)
  for _, key in ipairs(redis.call('SMEMBERS', l .. ':holder:' .. name)) do
    redis.call('HDEL', l .. ':slot:' .. key, name)
  end
  redis.call('DEL', l .. ':holder:' .. name)
end

-- Who holds nothing any more begins anew; who has lost some slots only has yet to learn it.
local function forget_dead(name)
  for _, key in ipairs(redis.call('SMEMBERS', l .. ':holder:' .. name)) do
    local grant = redis.call('HGET', l .. ':slot:' .. key, name)
    if grant and string.sub(grant, 1, 16) > now then
      return
    end
  end
  release(name)
end

forget_dead(holder)
for i = 6, #ARGV, 2 do
  local slot = l .. ':slot:' .. ARGV[i]
  local grants = redis.call('HGETALL', slot)
  for at = 1, #grants, 2 do
    if string.sub(grants[at + 1], 1, 16) <= now then
      redis.call('HDEL', slot, grants[at])
      forget_dead(grants[at])
    end
  end
end
for i = 6, #ARGV, 2 do
  local slot, capacity = l .. ':slot:' .. ARGV[i], tonumber(ARGV[i + 1])
  if capacity == 0 or (redis.call('HLEN', slot) >= capacity and redis.call('HEXISTS', slot, holder) == 0) then
    return {}
  end
end
local fences = {}
for i = 6, #ARGV, 2 do
  local slot = l .. ':slot:' .. ARGV[i]
  local grant = redis.call('HGET', slot, holder)
  local fence = grant and string.sub(grant, 17)
  if not fence then
    -- The present instant, so that fences go on increasing when the server has lost its data. Lua counts to 2^53: a clock
    -- that is wrong by a century leaves room.
    local last = tonumber(redis.call('GET', l .. ':fence') or '0')
    fence = string.format('%.0f', math.max(last + 1, math.min(tonumber(ARGV[5]), 2 ^ 52)))
    redis.call('SET', l .. ':fence', fence)
  end
  redis.call('HSET', slot, holder, until_ .. fence)
  redis.call('SADD', l .. ':holder:' .. holder, ARGV[i])
  -- What nobody asks for goes by itself, long after every lease.
  if tonumber(keep) > redis.call('PTTL', slot) then
    redis.call('PEXPIRE', slot, keep)
  end
  if tonumber(keep) > redis.call('PTTL', l .. ':holder:' .. holder) then
    redis.call('PEXPIRE', l .. ':holder:' .. holder, keep)
  end
  fences[#fences + 1] = fence
end
return fences
