-- A request that has ended.
-- KEYS: tokens, places, account
-- ARGV: lease; the second in which its tokens were counted, and how many more they are; the grant
-- ('' epoch: none), its epoch, day and month; the cost.
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 then
  if redis.call('HINCRBY', KEYS[1], ARGV[2], ARGV[3]) < 0 then redis.call('HSET', KEYS[1], ARGV[2], 0) end
end
redis.call('ZREM', KEYS[2], ARGV[1])
local one = ARGV[5] ~= '' and account(KEYS[3]) or nil
if one then
  local more = tonumber(ARGV[8]) - (ARGV[5] == one.epoch and tonumber(ARGV[4]) or 0)
  -- What is given back is of the day and the month in which it was granted.
  if more >= 0 or tonumber(ARGV[6]) == one.day then one.day_spent = math.max(0, one.day_spent + more) end
  if more >= 0 or tonumber(ARGV[7]) == one.month then
    one.month_spent = math.max(0, one.month_spent + more)
  end
  keep(KEYS[3], one)
end
return 1
