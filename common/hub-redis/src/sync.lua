-- One hub tells how it uses a lane and learns what it may do.
-- KEYS: the lane's state, its owners (the hubs that use it). ARGV: 1 the hub, 2 its calls, 3 the places it wants for them and for who
-- waits, 4 for how many ms its word holds, 5 to 7 the pause, limit and time of the limit that it knows, 8 the channel, 9 the message that
-- places are free, 10 that places are wanted, 11 for how many ms a lane is kept that nobody uses, 12 within how many ms every hub speaks.
-- Returns: the places it may use (-1 without a limit), pause, limit, time of the limit, 1 if others have fewer places than they want.
-- Times are texts of 20 digits, so that they can be compared and none is rounded.
local never = '00000000000000000000'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, calls, wanted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- A hub that lost its memory gets it back from whoever knows more.
local state = redis.call('HMGET', KEYS[1], 'pause', 'limit', 'limit_at', 'asked_at', 'restored_at')
local pause, limit, limit_at = state[1] or never, state[2] or 'none', state[3] or never
if ARGV[5] > pause then
    pause = ARGV[5]
    redis.call('HSET', KEYS[1], 'pause', pause)
end
if ARGV[7] > limit_at then
    limit, limit_at = ARGV[6], ARGV[7]
    redis.call('HSET', KEYS[1], 'limit', limit, 'limit_at', limit_at)
    if not state[3] then
        state[5] = string.format('%.0f', now)
        redis.call('HSET', KEYS[1], 'restored_at', state[5])
    end
end

local owners, others_hold = {{name = me, wanted = wanted, held = calls}}, 0
local mine = owners[1]
local stored = redis.call('HGETALL', KEYS[2])
for i = 1, #stored, 2 do
    local held, wants, ends = string.match(stored[i + 1], '^(%d+) (%d+) (%d+)$')
    if stored[i] ~= me then
        if ends and tonumber(ends) > now then
            owners[#owners + 1] = {name = stored[i], wanted = tonumber(wants), held = tonumber(held)}
            others_hold = others_hold + tonumber(held)
        else
            redis.call('HDEL', KEYS[2], stored[i])
        end
    end
end

-- Nobody gets more than it wants; what is left is shared evenly by those who want more. The odd places go round by the second.
local function share_out(left)
    local open = {}
    table.sort(owners, function(a, b) return a.name < b.name end)
    for _, owner in ipairs(owners) do
        owner.share = 0
        if owner.wanted > 0 then open[#open + 1] = owner end
    end
    while #open > 0 do
        local each, still = math.floor(left / #open), {}
        for _, owner in ipairs(open) do
            if owner.wanted <= each then
                owner.share = owner.wanted
                left = left - owner.wanted
            else
                still[#still + 1] = owner
            end
        end
        if #still == #open then
            local turn = math.floor(now / 1000)
            for _, owner in ipairs(open) do owner.share = each end
            for i = 1, left - each * #open do
                local owner = open[(turn + i) % #open + 1]
                owner.share = owner.share + 1
            end
            break
        end
        open = still
    end
end

local places, others_want = -1, 0
if limit ~= 'none' then
    limit = tonumber(limit)
    share_out(limit)
    places = math.min(mine.share, math.max(limit - others_hold, 0))
    -- Until every hub has told of its calls again, each may only go on with as many as it has.
    if state[5] and now - tonumber(state[5]) < tonumber(ARGV[12]) then
        places = math.min(places, calls)
    end
    mine.held = math.max(calls, places)
    local free, short, over = limit - others_hold - mine.held, false, false
    for _, owner in ipairs(owners) do
        if owner ~= mine then
            short = short or owner.held < owner.share
            over = over or owner.held > owner.share
            if owner.held < owner.wanted then others_want = 1 end
        end
    end
    if free > 0 and short then
        redis.call('PUBLISH', ARGV[8], ARGV[9])
    end
    -- Those who have too much must not be asked in a circle by those who have too little.
    if over and places < mine.share and now - tonumber(state[4] or '0') >= 100 then
        redis.call('HSET', KEYS[1], 'asked_at', string.format('%.0f', now))
        redis.call('PUBLISH', ARGV[8], ARGV[10])
    end
end

if calls == 0 and wanted == 0 then
    redis.call('HDEL', KEYS[2], me)
else
    local word = string.format('%.0f %.0f %.0f', mine.held, wanted, now + tonumber(ARGV[4]))
    redis.call('HSET', KEYS[2], me, word)
end
redis.call('PEXPIRE', KEYS[1], ARGV[11])
redis.call('PEXPIRE', KEYS[2], ARGV[11])
return {string.format('%.0f', places), pause, tostring(limit), limit_at, others_want}
