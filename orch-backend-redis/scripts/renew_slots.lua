-- Prolongs all that each holder holds. KEYS: the tenant's slots. ARGV: now, until when, how long until all is forgotten
-- (milliseconds), then holders. Answers 1 for each holder that had lost nothing, and prolongs for those.
local l, now, until_, keep, answers = KEYS[1], ARGV[1], ARGV[2], ARGV[3], {}
for i = 4, #ARGV do
  local holder, grants, whole = ARGV[i], {}, true
  local keys = redis.call('SMEMBERS', l .. ':holder:' .. holder)
  for _, key in ipairs(keys) do
    local grant = redis.call('HGET', l .. ':slot:' .. key, holder)
    whole = whole and grant and string.sub(grant, 1, 16) > now
    grants[key] = grant
  end
  if #keys == 0 or not whole then
    answers[#answers + 1] = 0
  else
    for key, grant in pairs(grants) do
      redis.call('HSET', l .. ':slot:' .. key, holder, until_ .. string.sub(grant, 17))
      if tonumber(keep) > redis.call('PTTL', l .. ':slot:' .. key) then
        redis.call('PEXPIRE', l .. ':slot:' .. key, keep)
      end
    end
    if tonumber(keep) > redis.call('PTTL', l .. ':holder:' .. holder) then
      redis.call('PEXPIRE', l .. ':holder:' .. holder, keep)
    end
    answers[#answers + 1] = 1
  end
end
return answers
