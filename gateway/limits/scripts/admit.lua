-- One request: all of it is counted, or nothing.
-- KEYS: requests, tokens, places, account
-- ARGV: limits of requests, tokens and places, daily and monthly budget (-1: none); tokens, lease, how
-- long that holds in ms, and the nano-dollars it would like.
-- Returns: the limit that refuses ('' for none, 'unseeded'), after how many ms (-1: never), and what is
-- left and in how many ms nothing is used, of requests and of tokens; the second; the grant, its
-- epoch, day and month.
local of_requests, of_tokens, of_places = limit(ARGV[1]), limit(ARGV[2]), limit(ARGV[3])
local daily, monthly = limit(ARGV[4]), limit(ARGV[5])
local tokens, lease, lease_ms, wanted = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])

local one = (daily or monthly) and account(KEYS[4]) or nil
if (daily or monthly) and not one then return {'unseeded'} end

local refused, after_ms = '', 0
local function refuse(name, ms)
  if refused == '' then refused, after_ms = name, ms end
end

local asked, used, asked_parts, used_parts = 0, 0, {}, {}
if of_requests then
  asked, asked_parts = window(KEYS[1])
  if asked + 1 > of_requests then
    refuse('requests_per_minute', wait_ms(asked_parts, asked + 1 - of_requests))
  end
end
if of_tokens then
  used, used_parts = window(KEYS[2])
  if used + tokens > of_tokens then
    refuse('tokens_per_minute', wait_ms(used_parts, used + tokens - of_tokens))
  end
end
if of_places then
  -- A gateway that died renews its leases no more. None holds longer than it may, even where the
  -- clock was set back.
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_ms)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], now_ms + lease_ms + 1, '+inf')) do
    redis.call('ZADD', KEYS[3], now_ms + lease_ms, name)
  end
  if redis.call('ZCARD', KEYS[3]) >= of_places then refuse('concurrent_streams', 0) end
end
local grant = 0
if one then
  local room, is_month = room_of(one, daily, monthly)
  grant = granted(1, wanted, room, true)
  if grant == 0 then
    refuse(is_month and 'monthly_budget' or 'daily_budget', renewal_ms(one, is_month))
  end
end

if refused == '' then
  if of_requests then
    count(KEYS[1], 1)
    asked, asked_parts = window(KEYS[1])
  end
  if of_tokens then
    count(KEYS[2], tokens)
    used, used_parts = window(KEYS[2])
  end
  if of_places then
    redis.call('ZADD', KEYS[3], now_ms + lease_ms, lease)
    redis.call('PEXPIRE', KEYS[3], 2 * lease_ms)
  end
  if one then
    one.day_spent, one.month_spent = one.day_spent + grant, one.month_spent + grant
    keep(KEYS[4], one)
  end
end
return {
  refused, after_ms,
  math.max(0, (of_requests or 0) - asked), reset_ms(asked_parts),
  math.max(0, (of_tokens or 0) - used), reset_ms(used_parts),
  now_s, grant, one and one.epoch or '', one and one.day or 0, one and one.month or 0,
}
