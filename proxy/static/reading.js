/**
 * Reading a durable stream to its end, whatever happens to the connections: catch-up, long-poll and SSE, retries with
 * back-off, and the exact place where reading stands. The inside of client.js; no part of the public interface.
 */

export const START = '-1'

/** Waiting times in milliseconds; `retry` in the options replaces any of them. */
export const RETRY = {
  attempts: 10, // failures in a row, without a new byte, before reading gives up
  attachAttempts: 3, // the same for the first request of a call, whose caller still waits
  baseDelay: 250, // the first back-off; it doubles, with full jitter
  maxDelay: 5_000,
  headTimeout: 15_000, // for a response that the proxy can begin at once
  stallTimeout: 90_000, // without a byte: longer than any long-poll or keep-alive interval
  offlineTimeout: 300_000, // how long a browser that knows itself offline waits for its network
}

/** The stream ended, but not as its upstream promised. What was read is a prefix of the answer. */
export class IncompleteStreamError extends Error {
  constructor(outcome, bytesRead) {
    super(`the answer is incomplete: ${outcome} after ${bytesRead} bytes`)
    this.name = 'IncompleteStreamError'
    this.outcome = outcome
    this.bytesRead = bytesRead
  }
}

/** The proxy refused to read or abort a stream. `status` is HTTP's, `code` the proxy's own (or null). */
export class ProxyError extends Error {
  constructor(status, code, message) {
    super(message || `the proxy answered ${status}`)
    this.name = 'ProxyError'
    this.status = status
    this.code = code
  }
}

/** A failure that another attempt may mend. */
export class Transient extends Error {
  constructor(message, retryAfter = 0) {
    super(message)
    this.retryAfter = retryAfter
  }
}

// ── Server-sent events ──

/** Text in any pieces to server-sent events `{event, data}`. */
export class EventStreamParser {
  #rest = ''
  #endsInCR = false
  #event = ''
  #data = null

  /** The events that `text` completes. A line that comes in many pieces is looked through once, at its end. */
  push(text) {
    const events = []
    const isInside = text === '' || !(this.#endsInCR || /[\r\n]/.test(text))
    if (isInside) {
      this.#rest += text
      return events
    }
    this.#endsInCR = text.endsWith('\r')
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/) // a final CR may be half of a CRLF
    this.#rest = lines.pop()
    for (const line of lines) {
      if (line === '') {
        if (this.#data !== null) events.push({ event: this.#event || 'message', data: this.#data })
        this.#event = ''
        this.#data = null
        continue
      }
      const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line)
      if (field === 'data') this.#data = this.#data === null ? value : `${this.#data}\n${value}`
      else if (field === 'event') this.#event = value
    }
    return events
  }
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text)
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0))
}

// ── The read loop ──

/**
 * Where reading stands: `skip` bytes after `offset`, the last place that storage has named. Offsets are opaque, so
 * after a cut the bytes since `offset` are read again and as many as were delivered are dropped.
 */
export class Position {
  #seen = 0 // bytes met after `offset` in this attempt

  constructor(offset = START, skip = 0) {
    this.offset = offset
    this.skip = skip
    this.cursor = null
    this.closed = false
    this.outcome = null
    this.bytesRead = 0
  }

  /** A new attempt begins at `offset`. */
  restart() {
    this.#seen = 0
  }

  /** The part of `bytes` that is new, which counts as delivered; null when none is. */
  take(bytes) {
    const known = Math.max(0, this.skip - this.#seen)
    this.#seen += bytes.length
    if (known >= bytes.length) return null
    this.skip = this.#seen
    this.bytesRead += bytes.length - known
    return known ? bytes.subarray(known) : bytes
  }

  /** Storage has named the place that was reached. */
  reach(offset) {
    this.offset = offset
    this.skip = Math.max(0, this.skip - this.#seen)
    this.#seen = 0
  }

  end(outcome) {
    this.closed = true
    this.outcome = outcome || 'complete'
  }
}

/** A signal that fires with the caller's, or with a Transient when `start`'s time runs out before `stop`. */
class Deadline {
  #controller = new AbortController()
  #outer
  #timer
  #relay = () => this.#controller.abort(this.#outer.reason)

  constructor(outer) {
    this.#outer = outer
    if (outer.aborted) this.#relay()
    else outer.addEventListener('abort', this.#relay)
  }
  get signal() {
    return this.#controller.signal
  }
  /** Gives what is awaited now so long. */
  start(milliseconds) {
    this.stop()
    this.#timer = setTimeout(() => this.#controller.abort(new Transient('no answer in time')), milliseconds)
    this.#timer.unref?.()
  }
  stop() {
    clearTimeout(this.#timer)
  }
  /** Ends everything that uses the signal. */
  end() {
    this.stop()
    this.#outer.removeEventListener('abort', this.#relay)
    this.#controller.abort()
  }
}

export const aborted = (signal) => signal.reason ?? new DOMException('aborted', 'AbortError')

/** Resolves after `milliseconds`, or when the browser is online again; rejects when `signal` fires. */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const done = (settle) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', cancel)
      globalThis.removeEventListener?.('online', wake)
      settle()
    }
    const wake = () => done(resolve)
    const cancel = () => done(() => reject(aborted(signal)))
    const timer = setTimeout(wake, milliseconds)
    if (signal.aborted) return cancel()
    signal.addEventListener('abort', cancel)
    globalThis.addEventListener?.('online', wake)
  })
}

const isOnline = () => globalThis.navigator?.onLine !== false

/** The time before attempt `failures` + 1, honouring Retry-After as far as it is sensible to wait in a page. */
function backoff(failures, error, retry) {
  const delay = Math.random() * Math.min(retry.maxDelay, retry.baseDelay * 2 ** (failures - 1))
  return Math.max(delay, Math.min(error.retryAfter || 0, 30_000))
}

function networkError(error) {
  // The Vercel SDK takes a TypeError that says "network" for a disconnect, after which it may resume.
  return new TypeError(`network error: ${error.message}`, { cause: error })
}

/** Runs `attempt` until it succeeds, fails for good, or has failed `attempts` times. */
export async function retrying(attempt, attempts, retry, signal) {
  for (let failures = 1; ; failures++) {
    try {
      return await attempt()
    } catch (error) {
      if (signal.aborted) throw aborted(signal)
      if (!(error instanceof Transient)) throw error
      if (failures >= attempts) throw networkError(error)
      await pause(backoff(failures, error, retry), signal)
    }
  }
}

/** fetch, with every failure to get a response made Transient; an abort stays an abort. */
export async function send(fetch, url, init, outer) {
  try {
    return await fetch(url, init)
  } catch (error) {
    if (outer.aborted) throw aborted(outer)
    throw transient(error, init.signal)
  }
}

function transient(error, signal) {
  const reason = signal?.aborted ? signal.reason : error
  return reason instanceof Transient ? reason : new Transient(reason?.message ?? 'the connection was lost')
}

/** A pre-signed URL is signed as it is spelled: its own part is never parsed and written anew. */
export const withQuery = (url, query) => `${url}${url.includes('?') ? '&' : '?'}${query}`

function retryAfter(headers) {
  const seconds = Number(headers.get('Retry-After'))
  return Number.isFinite(seconds) ? seconds * 1000 : 0
}

/** The proxy's `{"error": {code, message}}`, as far as `text` is one. */
export function parseError(text) {
  try {
    const { code, message } = JSON.parse(text).error
    return { code: String(code), message: String(message ?? '') }
  } catch {
    return { code: null, message: '' }
  }
}

export async function proxyError(response) {
  const { code, message } = parseError(await response.text().catch(() => ''))
  return new ProxyError(response.status, code, message)
}

/** One read of a stream at a position: its head has arrived and is good. */
export class Reading {
  constructor(response, deadline, live) {
    const type = response.headers.get('Content-Type') ?? ''
    this.response = response
    this.deadline = deadline
    this.isEvents = live === 'sse' && type.startsWith('text/event-stream')
  }

  /** Asks for what follows `position`. Throws Transient, or ProxyError when asking again is useless. */
  static async open(position, { url, live, fetch, retry, signal }) {
    const deadline = new Deadline(signal)
    deadline.start(live === 'long-poll' ? retry.stallTimeout : retry.headTimeout)
    position.restart()
    const query = new URLSearchParams({ offset: position.offset })
    if (live) query.set('live', live)
    if (live && position.cursor) query.set('cursor', position.cursor)
    try {
      const response = await send(fetch, withQuery(url, query), { signal: deadline.signal, cache: 'no-store' }, signal)
      deadline.stop()
      if (response.ok) return new Reading(response, deadline, live)
      if (response.status === 429 || response.status >= 500) {
        await response.body?.cancel().catch(() => {})
        throw new Transient(`the proxy answered ${response.status}`, retryAfter(response.headers))
      }
      throw await proxyError(response)
    } catch (error) {
      deadline.end()
      throw error
    }
  }

  /** New bytes, the position moving with them. A cut is a Transient; the end of the response is just the end. */
  async *bytes(position, retry) {
    const reader = this.response.body?.getReader()
    try {
      yield* this.isEvents ? this.#events(reader, position, retry) : this.#raw(reader, position, retry)
    } finally {
      this.deadline.end()
      reader?.cancel().catch(() => {})
    }
  }

  async #next(reader, retry) {
    this.deadline.start(retry.stallTimeout)
    try {
      return await reader.read()
    } catch (error) {
      throw transient(error, this.deadline.signal)
    } finally {
      this.deadline.stop()
    }
  }

  async *#raw(reader, position, retry) {
    const { headers } = this.response
    for (let next; reader && !(next = await this.#next(reader, retry)).done;) {
      const fresh = position.take(next.value)
      if (fresh) yield fresh
    }
    const offset = headers.get('Stream-Next-Offset')
    if (offset !== null) position.reach(offset)
    position.cursor = headers.get('Stream-Cursor') ?? position.cursor
    if (headers.get('Stream-Closed') === 'true') position.end(headers.get('Upstream-Outcome'))
    else if (offset === null) throw new ProxyError(this.response.status, null, 'the answer names no Stream-Next-Offset')
  }

  async *#events(reader, position, retry) {
    const isBase64 = this.response.headers.get('Stream-SSE-Data-Encoding') === 'base64'
    const decode = isBase64 ? fromBase64 : (text) => new TextEncoder().encode(text)
    const decoder = new TextDecoder()
    const parser = new EventStreamParser()
    let met = false
    for (let next; !position.closed && !(next = await this.#next(reader, retry)).done;) {
      for (const { event, data } of parser.push(decoder.decode(next.value, { stream: true }))) {
        met = true
        if (event === 'data') {
          const fresh = position.take(decode(data))
          if (fresh) yield fresh
        } else if (event === 'control') {
          const control = JSON.parse(data)
          if (control.streamNextOffset) position.reach(control.streamNextOffset)
          position.cursor = control.streamCursor ?? position.cursor
          if (control.streamClosed) position.end(control.upstreamOutcome)
        }
      }
    }
    if (!met) throw new Transient('the answer was empty')
  }
}

/**
 * The stream's bytes from `position` to its end, whatever happens to the connections: each is followed by another
 * one. `first` is a Reading that is open already. Throws TypeError when the retries are used up.
 */
export async function* readToEnd(position, first, options) {
  const { retry, signal } = options
  let reading = first
  let failures = 0
  let idle = 0
  let offline = 0 // milliseconds of waiting in a row, counted by pauses: no clock, which runs on while a machine sleeps
  while (!position.closed) {
    const before = position.bytesRead
    const began = Date.now()
    try {
      reading ??= await Reading.open(position, options)
      for await (const bytes of reading.bytes(position, retry)) {
        failures = offline = 0
        yield bytes
      }
      failures = offline = 0
      // An answer that brings nothing is right after a long wait; at once, it must not become a busy loop.
      idle = position.bytesRead > before || Date.now() - began > 1_000 ? 0 : idle + 1
      if (idle > 1 && !position.closed) await pause(Math.min(1_000, 25 * 2 ** idle), signal)
    } catch (error) {
      if (signal.aborted) throw aborted(signal)
      if (!(error instanceof Transient)) throw error
      const isWaiting = !isOnline() // a browser that knows itself offline waits for its network
      if (isWaiting) offline += retry.maxDelay
      else failures++
      if (failures >= retry.attempts || offline > retry.offlineTimeout) throw networkError(error)
      await pause(isWaiting ? retry.maxDelay : backoff(failures, error, retry), signal)
    } finally {
      reading = null
    }
  }
}
