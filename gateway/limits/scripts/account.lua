-- What a caller has spent: a hash. See gateway/limits/account.py.
local DAY_S, KEPT_S, ROOM_SHARE = 86400, 40 * 86400, 8

-- Twelve times the year, and January is 0. From days since 1970 by Howard Hinnant's
-- civil_from_days (howardhinnant.github.io/date_algorithms.html).
local function month_of(day)
  local since = day + 719468
  local era = math.floor(since / 146097)
  local of_era = since - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  local month = from_march < 10 and from_march + 2 or from_march - 10
  return (year + era * 400 + (month < 2 and 1 or 0)) * 12 + month
end

-- nil: nobody has said yet what was spent. A clock that is set back begins no day anew.
local function account(key)
  local found = redis.call('HMGET', key, 'epoch', 'day', 'day_spent', 'month', 'month_spent')
  if not found[1] then return nil end
  local one = {
    epoch = found[1],
    day = tonumber(found[2]), day_spent = tonumber(found[3]),
    month = tonumber(found[4]), month_spent = tonumber(found[5]),
  }
  local today = math.floor(now_s / DAY_S)
  if today > one.day then one.day, one.day_spent = today, 0 end
  local month = month_of(one.day)
  if month > one.month then one.month, one.month_spent = month, 0 end
  return one
end

-- Keep it. Whole numbers up to 2^53 are exact here, and are written without an exponent.
local function keep(key, one)
  local function whole(number) return string.format('%.0f', number) end
  redis.call('HSET', key, 'day', whole(one.day), 'day_spent', whole(one.day_spent),
    'month', whole(one.month), 'month_spent', whole(one.month_spent))
  redis.call('EXPIRE', key, KEPT_S)
end

-- What is left of both budgets; and whether the month's is the tighter one.
local function room_of(one, daily, monthly)
  local of_day = daily and daily - one.day_spent or math.huge
  local of_month = monthly and monthly - one.month_spent or math.huge
  return math.max(0, math.min(of_day, of_month)), of_month <= of_day
end

local function granted(needed, wanted, room, is_whole)
  if is_whole and needed > room then return 0 end
  local share = math.floor((room - needed) / ROOM_SHARE)
  return math.max(0, math.min(room, needed + math.max(0, math.min(wanted, share))))
end

-- Until the budget begins anew.
local function renewal_ms(one, is_month)
  local day = one.day + 1
  if is_month then
    while month_of(day) == one.month do day = day + 1 end
  end
  return math.max(1000, day * DAY_S * 1000 - now_ms)
end
