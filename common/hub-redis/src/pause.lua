-- Pauses a lane, unless it is paused for longer, and tells everybody.
-- KEYS: the lane's state. ARGV: 1 until when (20 digits), 2 the channel, 3 the message, 4 for how many ms the lane is kept.
local pause = redis.call('HGET', KEYS[1], 'pause')
if not pause or ARGV[1] > pause then
    redis.call('HSET', KEYS[1], 'pause', ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
