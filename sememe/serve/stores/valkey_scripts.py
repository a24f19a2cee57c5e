"""What a store in Valkey or Redis does, as scripts that the server runs: each as a whole and alone.

Keys, behind the prefix "sememe:"
    schema       version of what the store holds
    cursor       the last number given to an event
    events       hash: number -> JSON [event id, user id, item id, timestamp, event type, value]
    ids          hash: event id -> number
    user:ID      sorted set: numbers of a user's events by timestamp
    version      the last version given to an item
    changes      sorted set: item ids by their versions
    fields       hash: item id -> JSON
    stock        hash: item id -> JSON
    removed      hash: item id -> 1

Numbers are written with 16 digits: a sorted set puts members of one score in the order of their letters, which is then
the order of arrival.  A script reaches its keys by name alone, so a store is one server with replicas and no cluster.
Every script that adds something writes to its counter first: a server that is out of memory refuses that, before
anything is half done.
"""

# KEYS: cursor, ids, events, one key per user; ARGV: (event id, place among KEYS, timestamp, JSON) of each event.
APPEND = """
local accepted = 0
redis.call('INCRBY', KEYS[1], 0)
for place = 1, #ARGV, 4 do
    if redis.call('HEXISTS', KEYS[2], ARGV[place]) == 0 then
        local number = string.format('%016d', redis.call('INCR', KEYS[1]))
        redis.call('HSET', KEYS[2], ARGV[place], number)
        redis.call('HSET', KEYS[3], number, ARGV[place + 3])
        redis.call('ZADD', KEYS[tonumber(ARGV[place + 1])], ARGV[place + 2], number)
        accepted = accepted + 1
    end
end
return accepted
"""

# KEYS: events, one key per user; ARGV: limit.  Gives the newest events of each user, newest first.
HISTORIES = """
local histories = {}
for user = 2, #KEYS do
    local numbers = redis.call('ZRANGE', KEYS[user], 0, ARGV[1] - 1, 'REV')
    local history = {}
    for start = 1, #numbers, 1000 do
        local found = redis.call('HMGET', KEYS[1], unpack(numbers, start, math.min(start + 999, #numbers)))
        for _, event in ipairs(found) do history[#history + 1] = event end
    end
    histories[user - 1] = history
end
return histories
"""

# KEYS: events, cursor; ARGV: cursor, limit, most numbers to look at.
# Gives how far it looked, and number and JSON of each event found: where many were deleted, numbers are missing.
SINCE = """
local place, last = tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[2]) or '0')
local stop = math.min(last, place + tonumber(ARGV[3]))
local found = {}
while place < stop and #found / 2 < tonumber(ARGV[2]) do
    local numbers = {}
    local count = math.min(500, stop - place, tonumber(ARGV[2]) - #found / 2)
    for step = 1, count do numbers[step] = string.format('%016d', place + step) end
    local events = redis.call('HMGET', KEYS[1], unpack(numbers))
    for step = 1, count do
        if events[step] then
            found[#found + 1] = numbers[step]
            found[#found + 1] = events[step]
        end
    end
    place = place + count
end
return {string.format('%d', place), string.format('%d', last), found}
"""

# KEYS: user, ids, events.  Gives how many events were deleted.
DELETE_USER = """
local numbers = redis.call('ZRANGE', KEYS[1], 0, -1)
for start = 1, #numbers, 1000 do
    local stop = math.min(start + 999, #numbers)
    local ids = {}
    for _, event in ipairs(redis.call('HMGET', KEYS[3], unpack(numbers, start, stop))) do
        if event then ids[#ids + 1] = cjson.decode(event)[1] end
    end
    if #ids > 0 then redis.call('HDEL', KEYS[2], unpack(ids)) end
    redis.call('HDEL', KEYS[3], unpack(numbers, start, stop))
end
redis.call('DEL', KEYS[1])
return #numbers
"""

# KEYS: version, changes, fields, stock, removed; ARGV: what to do, then (item id, JSON or "") of each item.
CHANGE = """
local version = redis.call('INCRBY', KEYS[1], (#ARGV - 1) / 2)
local first = version - (#ARGV - 1) / 2
for place = 2, #ARGV, 2 do
    local item = ARGV[place]
    redis.call('ZADD', KEYS[2], string.format('%d', first + place / 2), item)
    if ARGV[1] == 'put' then
        redis.call('HSET', KEYS[3], item, ARGV[place + 1])
        redis.call('HDEL', KEYS[5], item)
    elseif ARGV[1] == 'remove' then
        redis.call('HDEL', KEYS[3], item)
        redis.call('HDEL', KEYS[4], item)
        redis.call('HSET', KEYS[5], item, 1)
    else
        redis.call('HSET', KEYS[4], item, ARGV[place + 1])
    end
end
return version
"""

# KEYS: changes, fields, stock, removed; ARGV: version, limit.  Gives version, item id, fields, removed, stock of each.
CHANGES = """
local found = redis.call('ZRANGE', KEYS[1], '(' .. ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
local changes = {}
for place = 1, #found, 2 do
    local item = found[place]
    changes[#changes + 1] = {
        found[place + 1], item, redis.call('HGET', KEYS[2], item), redis.call('HEXISTS', KEYS[4], item),
        redis.call('HGET', KEYS[3], item)
    }
end
return changes
"""
