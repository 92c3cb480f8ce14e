-- The server's own clock, so that the gateways' need not agree.
local clock = redis.call('TIME')
local now_s = tonumber(clock[1])
local now_ms = now_s * 1000 + math.floor(tonumber(clock[2]) / 1000)
local NONE = -1 -- no limit

local function limit(text)
  local value = tonumber(text)
  return value ~= NONE and value or nil
end
