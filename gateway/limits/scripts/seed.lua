-- What a caller has spent, unless somebody has said so already.
-- KEYS: account
-- ARGV: epoch, day, nano-dollars of it, month, nano-dollars of it
if redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'day', ARGV[2], 'day_spent', ARGV[3], 'month', ARGV[4], 'month_spent', ARGV[5])
  redis.call('EXPIRE', KEYS[1], 40 * 86400)
end
return 1
