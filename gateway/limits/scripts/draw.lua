-- More money for a request that is being answered.
-- KEYS: account
-- ARGV: daily and monthly budget (-1: none); the grant and its epoch; the cost so far; what it would
-- like above that; 1 where nothing is taken unless the cost is covered.
-- Returns: the limit that refuses ('' for none, 'unseeded'), after how many ms; the whole grant, its
-- epoch, day and month.
local one = account(KEYS[1])
if not one then return {'unseeded'} end
local daily, monthly = limit(ARGV[1]), limit(ARGV[2])
-- Counts of another epoch have not heard of what was granted.
local held = ARGV[4] == one.epoch and tonumber(ARGV[3]) or 0
local needed = math.max(0, tonumber(ARGV[5]) - held)
local room, is_month = room_of(one, daily, monthly)
local grant = granted(needed, tonumber(ARGV[6]), room, ARGV[7] == '1')
one.day_spent, one.month_spent = one.day_spent + grant, one.month_spent + grant
keep(KEYS[1], one)
local refused, after_ms = '', 0
if grant < needed then
  refused, after_ms = is_month and 'monthly_budget' or 'daily_budget', renewal_ms(one, is_month)
end
return {refused, after_ms, held + grant, one.epoch, one.day, one.month}
