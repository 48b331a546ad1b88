-- Adds hints. KEYS: the hints, the number of arrivals. ARGV: pairs of a chunk and its order, 0 for the most urgent priority.
-- A score is order * 2^37 + arrival, which a double holds exactly. After so many arrivals they begin anew, and some come too early once.
local span = 137438953472
local before = tonumber(redis.call('GET', KEYS[2]) or '0')
local arrivals = before
for i = 1, #ARGV, 2 do
    local chunk, order = ARGV[i], tonumber(ARGV[i + 1])
    local score = string.format('%.0f', order * span + (arrivals + 1) % span)
    if redis.call('ZADD', KEYS[1], 'NX', score, chunk) == 1 then
        arrivals = arrivals + 1
    else
        -- It keeps its arrival, and so its place unless its priority is another one now.
        local known = tonumber(redis.call('ZSCORE', KEYS[1], chunk))
        local known_order = math.floor(known / span)
        if known_order ~= order then
            redis.call('ZADD', KEYS[1], string.format('%.0f', order * span + (known - known_order * span)), chunk)
        end
    end
end
if arrivals > before then
    redis.call('SET', KEYS[2], string.format('%.0f', arrivals % span))
end
