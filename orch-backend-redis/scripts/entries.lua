-- Reads a page of each stream. KEYS: shards. ARGV: 4 values a stream: number of the shard, stream, after, last wanted.
-- Answers for each stream: number and hash of its head (empty when there is none), then the number of the last line and
-- the lines of each append.
local answers = {}
for i = 1, #ARGV, 4 do
  local shard, stream = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local head = redis.call('HMGET', shard .. ':head:' .. stream, 'seq', 'hash')
  local page = { head[1] or '', head[2] or '' }
  local function take(first, last, count)
    local log = shard .. ':log:' .. stream
    local found = count and redis.call('XRANGE', log, first, last, 'COUNT', count) or redis.call('XRANGE', log, first, last)
    for _, append in ipairs(found) do
      page[#page + 1] = string.match(append[1], '^%d+')
      page[#page + 1] = append[2][2]
    end
    return #found > 0 and page[#page - 1]
  end
  if head[1] then
    -- Whole appends that end within the page, and the one that goes beyond its end if nothing ends just there.
    local last = take('(' .. ARGV[i + 2], ARGV[i + 3])
    if last ~= ARGV[i + 3] then
      take('(' .. ARGV[i + 3], '+', 1)
    end
  end
  answers[#answers + 1] = page
end
return answers
