-- Adds hints. KEYS: the hints, the number of arrivals. ARGV: pairs of a chunk and its order, 0 for the most urgent priority.
-- A score is order * 2^37 + arrival, which a double holds exactly.
local span = 137438953472
local arrivals = 0
if redis.call('EXISTS', KEYS[1]) == 1 then
    arrivals = tonumber(redis.call('GET', KEYS[2]) or '0')
end
for i = 1, #ARGV, 2 do
    local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
    local order = tonumber(ARGV[i + 1])
    if not score or math.floor(tonumber(score) / span) ~= order then
        arrivals = (arrivals + 1) % span
        redis.call('ZADD', KEYS[1], string.format('%.0f', order * span + arrivals), ARGV[i])
    end
end
redis.call('SET', KEYS[2], string.format('%.0f', arrivals))
