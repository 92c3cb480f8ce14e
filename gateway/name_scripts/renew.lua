-- It still runs. A claim that Redis lost is made again.
-- KEYS: the name. ARGV: digest, owner, how long a claim holds in ms
local one = found(KEYS[1])
if not one then
  hold(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
elseif one.owner == ARGV[2] and one.state == 'running' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif one.owner == ARGV[2] and one.state == 'sealed' then
  redis.call('HSET', KEYS[1], 'until_ms', now_ms + tonumber(ARGV[3]))
  redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])))
end
return 1
