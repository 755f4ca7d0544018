"""The store's rules as scripts that Redis runs: each is one step that happens whole, whoever else is at it.

They hold what must never break: sequence numbers are dense, a stream has one owner, every write carries the owner's fence, and a stream
ends once. Times are Redis's own. Script by script: KEYS, then ARGV.
"""

from __future__ import annotations

WHEN_FULL = "#!lua flags=allow-oom\n"
"""For what a full Redis does too: it adds next to nothing, and without it no stream keeps its owner or comes to its end."""

NOW_MS = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

OPEN = (
    NOW_MS
    + """
-- head, owned set of the owner, owners, [idempotency key];
-- stream, owner, tenant, spec, ttl ms of a running stream, fingerprint, ttl ms of the key
if KEYS[4] then
  local used = redis.call('HMGET', KEYS[4], 'stream', 'fingerprint')
  if used[1] then return used end
  redis.call('HSET', KEYS[4], 'stream', ARGV[1], 'fingerprint', ARGV[6])
  redis.call('PEXPIRE', KEYS[4], ARGV[7])
end
-- opened by an earlier attempt whose answer was lost; somebody else may own it by now
if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
-- an owner whose lease lapsed and was cleared away is looked for again: it may end before its next heartbeat
redis.call('ZADD', KEYS[3], 'NX', now - 1, ARGV[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'tenant', ARGV[3], 'spec', ARGV[4], 'fence', 1, 'last', 0, 'deaths', 0, 'read', now)
if KEYS[4] then redis.call('HSET', KEYS[1], 'key', KEYS[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('SADD', KEYS[2], ARGV[1])
return {}
"""
)

USED = """
-- idempotency key
return redis.call('HMGET', KEYS[1], 'stream', 'fingerprint')
"""

FREE_KEY = """
-- head; stream, owner, fence
local head = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'key')
if head[1] ~= ARGV[2] or head[2] ~= ARGV[3] or not head[3] then return 0 end
redis.call('HDEL', KEYS[1], 'key')
if redis.call('HGET', head[3], 'stream') == ARGV[1] then redis.call('DEL', head[3]) end
return 1
"""

APPEND = """
-- head, events, canon, owned set; stream, owner, fence, first sequence, ttl ms when finished, running ttl ms, number of events, number of
-- canon entries before these; then name, payload, final of each event, then the canon
local head = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'last', 'done', 'cancel')
if not head[2] then return 'lost' end
if head[1] ~= ARGV[2] or head[2] ~= ARGV[3] then return 'fenced' end
local first, count, last = tonumber(ARGV[4]), tonumber(ARGV[7]), tonumber(head[3])
-- an earlier attempt whose answer was lost may have written the first of the events and of the canon: those are left out
local num_written = count > 0 and last + 1 - first or 0
if head[4] then return count > 0 and num_written >= count and 'done' or 'fenced' end
local num_canon_written = redis.call('LLEN', KEYS[3]) - tonumber(ARGV[8])
if num_written < 0 or num_canon_written < 0 then return 'lost' end
local is_final = false
for i = num_written, count - 1 do
  local at = 9 + 3 * i
  redis.call('XADD', KEYS[2], (first + i) .. '-0', 'n', ARGV[at], 'p', ARGV[at + 1], 'f', ARGV[at + 2])
  is_final = is_final or ARGV[at + 2] == '1'
end
if num_written < count then redis.call('HSET', KEYS[1], 'last', first + count - 1) end
if is_final then
  redis.call('HSET', KEYS[1], 'done', 1)
  redis.call('HDEL', KEYS[1], 'spec')
  redis.call('DEL', KEYS[3])
  redis.call('SREM', KEYS[4], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  -- the idempotency key is kept as long as the answer it stands for
  local key = redis.call('HGET', KEYS[1], 'key')
  if key then redis.call('PEXPIRE', key, ARGV[5]) end
  return 'done'
end
local first_canon = 9 + 3 * count + num_canon_written
for i = first_canon, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
if first_canon <= #ARGV then redis.call('HSET', KEYS[1], 'deaths', 0) end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[6]) end
return head[5] and 'cancelled' or 'done'
"""

HEAD = """
-- head
return redis.call('HMGET', KEYS[1], 'tenant', 'owner', 'last', 'done', 'cancel')
"""

MARK_READ = (
    WHEN_FULL
    + NOW_MS
    + """
-- heads
for _, head in ipairs(KEYS) do
  if redis.call('EXISTS', head) == 1 then redis.call('HSET', head, 'read', now) end
end
return #KEYS
"""
)

IDLE_MS = (
    NOW_MS
    + """
-- head
local read = redis.call('HGET', KEYS[1], 'read')
return read and now - tonumber(read) or 0
"""
)

CANCEL = (
    WHEN_FULL
    + """
-- head; stream, prefix of the cancelled sets
local head = redis.call('HMGET', KEYS[1], 'owner', 'done')
if not head[1] or head[2] then return 0 end
redis.call('HSET', KEYS[1], 'cancel', 1)
redis.call('SADD', ARGV[2] .. head[1], ARGV[1])
redis.call('PEXPIRE', ARGV[2] .. head[1], 3600000)
return 1
"""
)

DELETE = """
-- head, events; stream
local head = redis.call('HMGET', KEYS[1], 'done', 'key')
if not head[1] then return 0 end
-- a key outlives a stream that ran for long, and may lead to another one by now
if head[2] and redis.call('HGET', head[2], 'stream') == ARGV[1] then redis.call('DEL', head[2]) end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""

HEARTBEAT = (
    WHEN_FULL
    + NOW_MS
    + """
-- owners, cancelled set of the owner; owner, lease ms
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
local cancelled = redis.call('SMEMBERS', KEYS[2])
redis.call('DEL', KEYS[2])
return cancelled
"""
)

GIVE_UP = (
    WHEN_FULL
    + """
-- head, owned set, given-up set; stream, owner, fence, by death
local head = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'done')
if head[1] ~= ARGV[2] or head[2] ~= ARGV[3] or head[3] then return 0 end
redis.call('HSET', KEYS[1], 'owner', '')
redis.call('HINCRBY', KEYS[1], 'deaths', ARGV[4])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
return 1
"""
)

CLAIM = (
    WHEN_FULL
    + NOW_MS
    + """
-- owners, given-up set, owned set of the claimant, what its latest claim took; claimant, limit, also from the dead, number of the claim,
-- prefix of heads, suffix of heads, suffix of canons, prefix of owned
local function head_of(stream) return ARGV[5] .. stream .. ARGV[6] end
local function take(stream, deaths)
  local head = head_of(stream)
  if redis.call('HEXISTS', head, 'spec') == 0 then return nil end
  redis.call('HSET', head, 'owner', ARGV[1])
  redis.call('HINCRBY', head, 'fence', 1)
  redis.call('HINCRBY', head, 'deaths', deaths)
  redis.call('SADD', KEYS[3], stream)
  redis.call('ZADD', KEYS[1], 'NX', now - 1, ARGV[1])
  return stream
end
local claimed, limit, number = {}, tonumber(ARGV[2]), tonumber(ARGV[4])
local latest = redis.call('LRANGE', KEYS[4], 0, -1)
local latest_number = tonumber(latest[1] or -1)
if latest_number == number then
  -- an attempt whose answer was lost: what it took is the claimant's, who does not know
  for i = 2, #latest do
    if redis.call('HGET', head_of(latest[i]), 'owner') == ARGV[1] then claimed[#claimed + 1] = latest[i] end
  end
elseif latest_number < number then
  while #claimed < limit do
    local stream = redis.call('SPOP', KEYS[2])
    if not stream then break end
    claimed[#claimed + 1] = take(stream, 0)
  end
  for _, owner in ipairs(ARGV[3] == '1' and redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now) or {}) do
    if owner ~= ARGV[1] then
      while #claimed < limit do
        local stream = redis.call('SPOP', ARGV[8] .. owner)
        if not stream then redis.call('ZREM', KEYS[1], owner) break end
        claimed[#claimed + 1] = take(stream, 1)
      end
    end
  end
  redis.call('DEL', KEYS[4])
  redis.call('RPUSH', KEYS[4], number, unpack(claimed))
  redis.call('PEXPIRE', KEYS[4], 3600000)
end
local claims = {}
for i, stream in ipairs(claimed) do
  local head = redis.call('HMGET', head_of(stream), 'fence', 'tenant', 'spec', 'last', 'deaths', 'cancel')
  claims[i] = {stream, head, redis.call('LRANGE', ARGV[5] .. stream .. ARGV[7], 0, -1)}
end
return claims
"""
)

TAKE = (
    NOW_MS
    + """
-- bucket; capacity, per second, cost
local capacity, rate, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local level = redis.call('HMGET', KEYS[1], 'amount', 'at')
local amount = level[1] and math.min(capacity, tonumber(level[1]) + (now - tonumber(level[2])) / 1000 * rate) or capacity
local granted = cost <= amount
if granted then amount = amount - cost end
redis.call('HSET', KEYS[1], 'amount', tostring(amount), 'at', now)
redis.call('PEXPIRE', KEYS[1], rate > 0 and math.ceil(capacity / rate * 1000) + 1000 or 86400000)
return {granted and 1 or 0, tostring(amount)}
"""
)
