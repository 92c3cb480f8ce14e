-- A minute that slides, in whole seconds: a hash of second -> count. See gateway/limits/window.py.
local WINDOW_S = 60

-- What came in within it: the sum, and {second, count} of each second, the oldest first. What the
-- clock says is still to come, because it was set back, is taken for what comes in now.
local function window(key)
  local sum, parts, early, fields = 0, {}, 0, redis.call('HGETALL', key)
  for place = 1, #fields, 2 do
    local second, count = tonumber(fields[place]), tonumber(fields[place + 1])
    if second < now_s - WINDOW_S then
      redis.call('HDEL', key, fields[place])
    elseif second > now_s then
      redis.call('HDEL', key, fields[place])
      early = early + count
    else
      parts[#parts + 1] = {second, count}
      sum = sum + count
    end
  end
  if early > 0 then
    redis.call('HINCRBY', key, now_s, early)
    redis.call('EXPIRE', key, 2 * WINDOW_S)
    parts[#parts + 1] = {now_s, early}
    sum = sum + early
  end
  table.sort(parts, function(one, other) return one[1] < other[1] end)
  return sum, parts
end

-- Until so much has left it; NONE: it is not that much.
local function wait_ms(parts, excess)
  for _, part in ipairs(parts) do
    excess = excess - part[2]
    if excess <= 0 then return (part[1] + WINDOW_S + 1) * 1000 - now_ms end
  end
  return NONE
end

-- Until nothing of it is left.
local function reset_ms(parts)
  if #parts == 0 then return 0 end
  return (parts[#parts][1] + WINDOW_S + 1) * 1000 - now_ms
end

local function count(key, number)
  redis.call('HINCRBY', key, now_s, number)
  redis.call('EXPIRE', key, 2 * WINDOW_S)
end
