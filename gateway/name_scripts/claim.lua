-- KEYS: the name. ARGV: digest, owner, how long a claim holds in ms
-- Returns: ours, running, reused, lost or answered; the answer where it is kept.
local one = found(KEYS[1])
if not one then
  hold(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
  return {'ours'}
end
if one.digest ~= ARGV[1] then return {'reused'} end
if one.state == 'answered' then return {'answered', redis.call('HGET', KEYS[1], 'answer')} end
if one.state == 'sealed' and one.until_ms < now_ms then return {'lost'} end
return {'running'}
