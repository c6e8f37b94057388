"""The scripts that run in the server: each reads and changes one stream, atomically.

A script that fails half-way is not rolled back. So whatever can fail (an entry of the data) comes first, and the state,
which alone says what counts, comes last.

None is marked as `no-writes`, also those that only read: a replica refuses them then. A demoted primary would otherwise
answer from data that it is about to drop. All but those that take room are marked `allow-oom`.
"""

import hashlib
from dataclasses import dataclass

__all__ = [
    "ALL", "BOUNDARY", "COMMIT", "CONFIRM", "CREATE", "HOLD", "LAST_WORDS", "LOAD", "PIECES", "RELEASE", "REMOVE",
    "REST", "TOUCH", "Script",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Script:
    """A script: its text, and the SHA-1 by which it is called once it was loaded."""

    text: bytes
    sha: bytes


# Fields of the hash: i id, s the head of the push of the last write (see `keys`), n its token, c closed,
# y content type, l TTL in seconds, a and e expiry as spelled and in milliseconds, q Stream-Seq, g removed but held,
# w nothing. Of a fork: k, o, u what it was made with, b its first own position, h its source and segments.
_COMMON = """
local m, d, f, c = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local call = redis.call
local time

local function now()
  if not time then
    local t = call('TIME')
    time = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return time
end

local function text(number) return string.format('%.0f', number) end

local function has_forks()
  call('ZREMRANGEBYSCORE', f, '-inf', text(now()))
  return call('EXISTS', f) == 1
end

-- Whether the stream is over (1: its forks keep it), false when there is none. One that is over and not kept goes.
local function look()
  local had = call('HMGET', m, 'i', 'e', 'g')
  if not had[1] then return false end
  if not had[3] and not (had[2] and tonumber(had[2]) <= now()) then return 0 end
  if has_forks() then return 1 end
  call('UNLINK', m, d, f)
  return false
end

-- Write again what the answer rests on, so that a WAIT behind it waits for that write, also if another client made it.
local function confirm() call('HSET', m, 'w', 1) end

local function state()
  local over = look()
  if not over then return {now()} end
  return {now(), over, call('HGETALL', m)}
end

-- The keys live as long as the stream or any of its forks needs them.
local function settle()
  local had = call('HMGET', m, 'e', 'g')
  local last = not had[2] and (had[1] or 'inf') or '0'
  local hold = call('ZRANGE', f, -1, -1, 'WITHSCORES')[2]
  if hold and tonumber(hold) > tonumber(last) then last = hold end
  for _, key in ipairs({m, d, f}) do
    if last == 'inf' then call('PERSIST', key) else call('PEXPIREAT', key, text(tonumber(last))) end
  end
end

-- A TTL starts again; when the stream expires now. It is stored late, so that it need not be stored often.
local function extend(expires, ttl)
  local until_ = now() + ttl * 1000
  if expires >= until_ then return expires end
  if ttl >= 60 then until_ = until_ + ttl * 125 end
  local spelled = text(until_)
  call('HSET', m, 'e', spelled)
  call('PEXPIREAT', m, spelled, 'GT')
  call('PEXPIREAT', d, spelled, 'GT')
  call('PEXPIREAT', f, spelled, 'GT')
  return until_
end

local function add(first)
  for k = first, #ARGV, 2 do call('XADD', d, ARGV[k], 'b', ARGV[k + 1]) end
end

"""

_LOAD = "return state()"

_CONFIRM = """
if look() then confirm() end
return state()
"""

# 1 token, 2 TTL, 3 expiry, 4 head of a push without the id, 5 count of what follows for the hash, then the data
_CREATE = """
local over = look()
if over then
  local had = call('HMGET', m, 'n', 'i', 'e')
  confirm()
  if had[1] == ARGV[1] then return {tonumber(had[2]), tonumber(had[3] or 0)} end
  return {now(), over, call('HGETALL', m)}
end
local count = tonumber(ARGV[5])
call('UNLINK', d, f)
add(6 + count)
local t = call('TIME')
local id = t[1] * 1000000 + t[2]
local expires = ARGV[3]
if ARGV[2] ~= '' then expires = text(now() + ARGV[2] * 1000) end
call('HSET', m, 'i', text(id), 'n', ARGV[1], 's', text(id) .. ARGV[4], unpack(ARGV, 6, 5 + count))
if expires ~= '' then
  call('HSET', m, 'e', expires)
  call('PEXPIREAT', d, expires)
  call('PEXPIREAT', m, expires)
end
return {id, tonumber(expires) or 0}
"""

# 1 head of the push, 2 expected token, 3 token, 4 a producer to forget, 5 f: the first bytes of its own, 6 count of
# what follows for the hash, then entries of the data. A head that ends with - goes without the bytes.
_COMMIT = """
local had = call('HMGET', m, 'n', 'e', 'l', 'g')
if had[1] == ARGV[3] then
  confirm()
  return tonumber(had[2] or 0)
end
local expires = tonumber(had[2] or 0)
if had[1] ~= ARGV[2] or had[4] or (had[2] and expires <= now()) then
  if look() then confirm() end
  return state()
end
local count = tonumber(ARGV[6])
local first = 7 + count
add(first)
if ARGV[4] ~= '' then call('HDEL', m, ARGV[4]) end
call('HSET', m, 's', ARGV[1], 'n', ARGV[3], unpack(ARGV, 7, 6 + count))
if had[3] then expires = extend(expires, tonumber(had[3])) end
if ARGV[5] ~= '' then
  local lives = call('PEXPIRETIME', m)
  if lives > 0 then call('PEXPIREAT', d, text(lives)) end
end
if #ARGV == first + 1 and string.byte(ARGV[1], -1) ~= 45 then
  call('SPUBLISH', c, ARGV[1] .. '\\n' .. ARGV[first + 1])
else
  local parts = {ARGV[1], '\\n'}
  if string.byte(ARGV[1], -1) ~= 45 then
    for k = first + 1, #ARGV, 2 do parts[#parts + 1] = ARGV[k] end
  end
  call('SPUBLISH', c, table.concat(parts))
end
return expires
"""

_TOUCH = """
local had = call('HMGET', m, 'i', 'e', 'l', 'g')
if had[1] ~= ARGV[1] or had[4] then return false end
if had[3] then return extend(tonumber(had[2] or 0), tonumber(had[3])) end
return tonumber(had[2] or 0)
"""

_REMOVE = """
local had = call('HMGET', m, 'i', 'g', 'h', 'k')
if had[1] ~= ARGV[1] or had[2] or look() ~= 0 then return {0} end
call('SPUBLISH', c, had[1] .. ' 0 0 x -\\n')
if has_forks() then
  call('HSET', m, 'g', 1)
  call('HDEL', m, 'e')
  settle()
  return {1}
end
call('UNLINK', m, d, f)
return {1, had[4], had[3]}
"""

# 1 id, 2 path of the fork, 3 time or inf
_HOLD = """
local had = call('HMGET', m, 'i', 'g', 'e', 'h', 'k')
if had[1] ~= ARGV[1] then return false end
local score = call('ZSCORE', f, ARGV[2])
if not score and (had[2] or (had[3] and tonumber(had[3]) <= now())) then return false end
if score and tonumber(score) >= tonumber(ARGV[3]) then return {0} end
call('ZADD', f, ARGV[3], ARGV[2])
settle()
return {1, had[5], had[4]}
"""

# 1 id, 2 path of the fork
_RELEASE = """
local had = call('HMGET', m, 'i', 'h', 'k')
if had[1] ~= ARGV[1] then return {0} end
call('ZREM', f, ARGV[2])
if look() then
  settle()
  return {1}
end
return {1, had[3], had[2]}
"""

# 1 id, 2 position, 3 end, 4 size
_PIECES = """
if call('HGET', m, 'i') ~= ARGV[1] then return false end
local found, left, last = {}, tonumber(ARGV[4]), tonumber(ARGV[3])
local from = '(' .. ARGV[2] .. '-18446744073709551615'
while left > 0 do
  local rows = call('XRANGE', d, from, '+', 'COUNT', 32)
  for _, row in ipairs(rows) do
    local data = row[2][2]
    local stop = tonumber(string.match(row[1], '^%d+'))
    found[#found + 1] = stop
    found[#found + 1] = data
    left = left - #data
    if left <= 0 or stop >= last then return found end
  end
  if #rows < 32 then return found end
  from = '(' .. rows[#rows][1]
end
return found
"""

# 1 id, 2 position
_BOUNDARY = """
if call('HGET', m, 'i') ~= ARGV[1] then return false end
local rows = call('XRANGE', d, ARGV[2] .. '-0', '+', 'COUNT', 1)
return rows[1] and tonumber(string.match(rows[1][1], '^%d+')) or false
"""

# 1 id, 2 position
_REST = """
if call('HGET', m, 'i') ~= ARGV[1] then return false end
local found = {}
local from = '(' .. ARGV[2] .. '-18446744073709551615'
while true do
  local rows = call('XRANGE', d, from, '+', 'COUNT', 16)
  for _, row in ipairs(rows) do
    local stop, continues = string.match(row[1], '^(%d+)-(%d)')
    if #found > 0 and continues == '0' then return found end
    found[#found + 1] = tonumber(stop)
    found[#found + 1] = row[2][2]
  end
  if #rows < 16 then return found end
  from = '(' .. rows[#rows][1]
end
"""


def _script(body: str, *, takes_room: bool = False) -> Script:
    head = "#!lua" if takes_room else "#!lua flags=allow-oom"
    text = f"{head}\n{_COMMON}{body}".encode()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


LOAD = _script(_LOAD)
CONFIRM = _script(_CONFIRM)
CREATE = _script(_CREATE, takes_room=True)
COMMIT = _script(_COMMIT, takes_room=True)
LAST_WORDS = _script(_COMMIT)
TOUCH = _script(_TOUCH)
REMOVE = _script(_REMOVE)
HOLD = _script(_HOLD)
RELEASE = _script(_RELEASE)
PIECES = _script(_PIECES)
BOUNDARY = _script(_BOUNDARY)
REST = _script(_REST)

ALL = (LOAD, CONFIRM, CREATE, COMMIT, LAST_WORDS, TOUCH, REMOVE, HOLD, RELEASE, PIECES, BOUNDARY, REST)
