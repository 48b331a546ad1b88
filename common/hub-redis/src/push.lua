-- Adds hints. KEYS: the hints, the number of arrivals. ARGV: pairs of a chunk and its order, 0 for the most urgent priority.
-- A score is order * 2^37 + arrival, which a double holds exactly. When the arrivals begin anew, after years, some come too early once.
local span = 137438953472
local pairs = #ARGV / 2
local before = redis.call('INCRBY', KEYS[2], pairs) - pairs
for i = 1, pairs do
    local chunk, order = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
    local score = string.format('%.0f', order * span + (before + i) % span)
    if redis.call('ZADD', KEYS[1], 'NX', score, chunk) == 0 then
        -- It keeps its place unless its priority is another one now.
        local known = redis.call('ZSCORE', KEYS[1], chunk)
        if math.floor(tonumber(known) / span) ~= order then
            redis.call('ZADD', KEYS[1], score, chunk)
        end
    end
end
