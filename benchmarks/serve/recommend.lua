-- Lists for users drawn at random: wrk ... -- USERS K ROWS
-- With ROWS above 0, each request is a batch of so many users.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  users, k, rows = tonumber(args[1]), args[2], tonumber(args[3])
  wrk.headers["content-type"] = "application/json"
  math.randomseed(number + 1)
end

local function one()
  return '{"user_id":"shop-' .. math.random(0, users - 1) .. '","k":' .. k .. '}'
end

function request()
  if rows == 0 then
    return wrk.format("POST", "/v1/recommend", nil, one())
  end
  local asked = {}
  for row = 1, rows do
    asked[row] = one()
  end
  return wrk.format("POST", "/v1/recommend:batch", nil, '{"requests":[' .. table.concat(asked, ",") .. ']}')
end

function done(summary, latency, _)
  dofile(debug.getinfo(1).source:match("^@?(.*/)") .. "told.lua")(summary, latency)
end
