-- Writes the state of a lane that learns, if it is still the one that this hub read; else tells the one there is.
-- KEYS: the lane's meter. ARGV: 1 the version that was read, empty for none, 2 the new state, empty to only read, 3 its version, 4 for how
-- many ms it is kept. Returns: the time in microseconds, the version there is now, and its state where that is not the new one.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local stored = redis.call('HMGET', KEYS[1], 'version', 'state')
local version = stored[1] or ''
if ARGV[2] ~= '' and version == ARGV[1] then
    redis.call('HSET', KEYS[1], 'version', ARGV[3], 'state', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    return {now, ARGV[3], ''}
end
return {now, version, stored[2] or ''}
