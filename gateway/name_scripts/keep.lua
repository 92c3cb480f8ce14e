-- It is answered. The first answer stays, where two gateways gave one.
-- KEYS: the name. ARGV: digest, owner, how long it is kept in ms, 1 where the answer is, the answer
local one = found(KEYS[1])
if one and (one.state == 'answered' or one.digest ~= ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'owner', ARGV[2], 'state', 'answered')
if ARGV[4] == '1' then redis.call('HSET', KEYS[1], 'answer', ARGV[5]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
