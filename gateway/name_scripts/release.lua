-- It failed, or was given up: who asks again runs it.
-- KEYS: the name. ARGV: owner
local one = found(KEYS[1])
if one and one.owner == ARGV[1] and one.state ~= 'answered' then redis.call('DEL', KEYS[1]) end
return 1
