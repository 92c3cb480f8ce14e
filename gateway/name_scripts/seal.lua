-- Its row is about to be written: from now on nobody else runs it, also where its gateway dies.
-- KEYS: the name. ARGV: digest, owner, how long a claim holds in ms, how long an answer is kept in ms
local one = found(KEYS[1])
if one and one.owner ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'owner', ARGV[2], 'state', 'sealed',
  'until_ms', now_ms + tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[3]), tonumber(ARGV[4])))
return 1
