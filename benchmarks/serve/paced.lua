-- Requests at a steady rate: wrk ... -- USERS K RATE [ITEMS STAMP]
-- With ITEMS, a file of item ids, and STAMP, a text that no other call had, all that an application asks: mostly lists,
-- some with titles, explained or in batches, events, items like others, exports.  Without, lists alone.
local ffi = require("ffi")
ffi.cdef[[
  typedef struct { long seconds; long nanoseconds; } moment_t;
  int clock_gettime(int clock, moment_t *moment);
]]
local MONOTONIC = 1
local moment = ffi.new("moment_t")
local items, events, due = {}, 0, nil

local function now()
  ffi.C.clock_gettime(MONOTONIC, moment)
  return tonumber(moment.seconds) * 1e3 + tonumber(moment.nanoseconds) / 1e6
end

function init(args)
  users, k, rate, stamp = tonumber(args[1]), args[2], tonumber(args[3]), args[5]
  wrk.headers["content-type"] = "application/json"
  math.randomseed(os.time())
  if args[4] then
    for item in io.lines(args[4]) do
      items[#items + 1] = '"' .. item .. '"'
    end
  end
end

function delay()
  due = due or now()
  -- Who falls behind catches up on a second at most.
  due = math.max(due + 1000 / rate, now() - 1000)
  return math.floor(math.max(0, due - now()))
end

local function user()
  return '"user_id":"shop-' .. math.random(0, users - 1) .. '"'
end

local function item()
  return items[math.random(#items)]
end

local function post(path, body)
  return wrk.format("POST", "/v1/" .. path, nil, "{" .. body .. "}")
end

local function batch()
  local asked = {}
  for row = 1, 20 do
    asked[row] = "{" .. user() .. "}"
  end
  return post("recommend:batch", '"requests":[' .. table.concat(asked, ",") .. "]")
end

local function event()
  events = events + 1
  return post("events", '"event_id":"' .. stamp .. "-" .. events .. '",' .. user() .. ',"item_id":' .. item())
end

function request()
  local chance = #items > 0 and math.random(100) or 1
  if chance <= 84 then
    return post("recommend", user() .. ',"k":' .. k)
  elseif chance <= 87 then
    return post("recommend", '"history":[' .. item() .. "," .. item() .. '],"titles":true')
  elseif chance <= 88 then
    return post("recommend", user() .. ',"explain":true')
  elseif chance <= 94 then
    return event()
  elseif chance <= 96 then
    return batch()
  elseif chance <= 98 then
    return post("similar", '"item_ids":[' .. item() .. "]")
  end
  return wrk.format("GET", "/v1/users/shop-" .. math.random(0, users - 1))
end

function done(summary, latency, _)
  dofile(debug.getinfo(1).source:match("^@?(.*/)") .. "told.lua")(summary, latency)
end
