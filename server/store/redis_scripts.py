"""The store's rules as scripts that Redis runs: each is one step that happens whole, whoever else is at it.

They hold what must never break: sequence numbers are dense, a stream has one owner, every write carries the owner's fence, and a stream
ends once. Times are Redis's own. Script by script: KEYS, then ARGV.
"""

from __future__ import annotations

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
-- head, events, canon, owned set; stream, owner, fence, first sequence, ttl ms when finished, running ttl ms, number of events,
-- then name, payload, final of each event, then the canon
local head = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'last', 'done', 'cancel')
if not head[2] then return 'lost' end
if head[1] ~= ARGV[2] or head[2] ~= ARGV[3] then return 'fenced' end
local first, count, last = tonumber(ARGV[4]), tonumber(ARGV[7]), tonumber(head[3])
if count > 0 and first + count - 1 <= last then return 'done' end
if head[4] then return 'fenced' end
if count > 0 and first ~= last + 1 then return 'lost' end
local is_final = false
for i = 0, count - 1 do
  local at = 8 + 3 * i
  redis.call('XADD', KEYS[2], (first + i) .. '-0', 'n', ARGV[at], 'p', ARGV[at + 1], 'f', ARGV[at + 2])
  is_final = is_final or ARGV[at + 2] == '1'
end
if count > 0 then redis.call('HSET', KEYS[1], 'last', first + count - 1) end
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
local ttl = ARGV[6]
if #ARGV >= 8 + 3 * count then
  for i = 8 + 3 * count, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
  redis.call('HSET', KEYS[1], 'deaths', 0)
  redis.call('PEXPIRE', KEYS[3], ttl)
end
redis.call('PEXPIRE', KEYS[1], ttl)
if count > 0 then redis.call('PEXPIRE', KEYS[2], ttl) end
return head[5] and 'cancelled' or 'done'
"""

HEAD = """
-- head
return redis.call('HMGET', KEYS[1], 'tenant', 'owner', 'last', 'done', 'cancel')
"""

CLAIMED = """
-- head
return redis.call('HMGET', KEYS[1], 'fence', 'tenant', 'spec', 'last', 'deaths', 'cancel')
"""

MARK_READ = (
    NOW_MS
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

CANCEL = """
-- head; stream, prefix of the cancelled sets
local head = redis.call('HMGET', KEYS[1], 'owner', 'done')
if not head[1] or head[2] then return 0 end
redis.call('HSET', KEYS[1], 'cancel', 1)
redis.call('SADD', ARGV[2] .. head[1], ARGV[1])
redis.call('PEXPIRE', ARGV[2] .. head[1], 3600000)
return 1
"""

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
    NOW_MS
    + """
-- owners, cancelled set of the owner; owner, lease ms
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
local cancelled = redis.call('SMEMBERS', KEYS[2])
redis.call('DEL', KEYS[2])
return cancelled
"""
)

GIVE_UP = """
-- head, owned set, given-up set; stream, owner, fence, by death
local head = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'done')
if head[1] ~= ARGV[2] or head[2] ~= ARGV[3] or head[3] then return 0 end
redis.call('HSET', KEYS[1], 'owner', '')
redis.call('HINCRBY', KEYS[1], 'deaths', ARGV[4])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
return 1
"""

CLAIM = (
    NOW_MS
    + """
-- owners, given-up set, owned set of the claimant; claimant, limit, also from the dead, prefix of heads, suffix of heads, prefix of owned
local function take(stream, deaths)
  local head = ARGV[4] .. stream .. ARGV[5]
  if redis.call('HEXISTS', head, 'spec') == 0 then return nil end
  redis.call('HSET', head, 'owner', ARGV[1])
  redis.call('HINCRBY', head, 'fence', 1)
  redis.call('HINCRBY', head, 'deaths', deaths)
  redis.call('SADD', KEYS[3], stream)
  redis.call('ZADD', KEYS[1], 'NX', now - 1, ARGV[1])
  return stream
end
local claimed, limit = {}, tonumber(ARGV[2])
while #claimed < limit do
  local stream = redis.call('SPOP', KEYS[2])
  if not stream then break end
  local taken = take(stream, 0)
  if taken then claimed[#claimed + 1] = taken end
end
if ARGV[3] == '0' then return claimed end
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)) do
  if owner ~= ARGV[1] then
    while #claimed < limit do
      local stream = redis.call('SPOP', ARGV[6] .. owner)
      if not stream then redis.call('ZREM', KEYS[1], owner) break end
      local taken = take(stream, 1)
      if taken then claimed[#claimed + 1] = taken end
    end
  end
end
return claimed
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
