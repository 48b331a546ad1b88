-- Sets the limit of a lane and tells everybody. Returns when it was set, which is later than any limit before.
-- KEYS: the lane's state. ARGV: 1 the limit or none, 2 the channel, 3 the message, 4 for how many ms the lane is kept, 5 the time of the
-- limit that this hub knows.
local time = redis.call('TIME')
local at = string.format('%020.0f', time[1] * 1000000 + time[2])
for _, before in ipairs({redis.call('HGET', KEYS[1], 'limit_at') or '', ARGV[5]}) do
    if before >= at then
        at = string.format('%020.0f', tonumber(before) + 1)
    end
end
redis.call('HSET', KEYS[1], 'limit', ARGV[1], 'limit_at', at)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return at
