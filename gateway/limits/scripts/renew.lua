-- These are still being answered.
-- KEYS: places. ARGV: how long a lease holds in ms, then leases.
for place = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[1]), ARGV[place])
end
redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[1]))
return 1
