-- A request's name: a hash. state: running, sealed (its row may be in the ledger) or answered.
-- until_ms: of a sealed one; after it, who sealed it is taken for dead.
local function found(key)
  local one = redis.call('HMGET', key, 'digest', 'owner', 'state', 'until_ms')
  if not one[1] then return nil end
  return {digest = one[1], owner = one[2], state = one[3], until_ms = tonumber(one[4] or 0)}
end

local function hold(key, digest, owner, lease_ms)
  redis.call('HSET', key, 'digest', digest, 'owner', owner, 'state', 'running')
  redis.call('PEXPIRE', key, lease_ms)
end
