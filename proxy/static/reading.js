/**
 * Reading a durable stream to its end, over as many connections as it takes: catch-up, long-poll and SSE, retries with
 * back-off, and the exact place where reading stands. Internal.
 */

import { aborted, IncompleteStreamError, networkError, ProxyError, proxyError, Transient } from './errors.js'
import { EventStreamParser } from './events.js'
import { backoff, Deadline, pause, retryAfter, send, transient } from './retry.js'

/** The offset before the first byte. */
export const START = '-1'

/**
 * Where reading stands: `skip` bytes after `offset`, the last place that storage has named. Offsets are opaque, so
 * after a cut the bytes since `offset` are read again, and as many as were delivered are dropped.
 */
export class Position {
  #seen = 0 // bytes received after `offset` in this attempt

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

  /** The part of `bytes` that is new, which now counts as delivered. Null if none is. */
  take(bytes) {
    const known = Math.max(0, this.skip - this.#seen)
    this.#seen += bytes.length
    if (known >= bytes.length) return null
    this.skip = this.#seen
    this.bytesRead += bytes.length - known
    return known ? bytes.subarray(known) : bytes
  }

  /** Everything received so far lies before `offset`. */
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

/** `query` added to `url`. The rest of a pre-signed URL must stay spelled as it was signed, so it is never parsed. */
export const withQuery = (url, query) => `${url}${url.includes('?') ? '&' : '?'}${query}`

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text)
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0))
}

/** One read of a stream at a position. Its head has arrived and is good. */
export class Reading {
  constructor(response, deadline, live) {
    const type = response.headers.get('Content-Type') ?? ''
    this.response = response
    this.deadline = deadline
    this.isEvents = live === 'sse' && type.startsWith('text/event-stream')
  }

  /** Asks for what follows `position`. Throws Transient, or ProxyError if asking again cannot help. */
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

  /** The new bytes; `position` moves with them. A cut is a Transient. The end of the response is just the end. */
  async *bytes(position, retry) {
    const chunks = this.#chunks(retry)
    try {
      yield* this.isEvents ? this.#events(chunks, position) : this.#raw(chunks, position)
    } finally {
      this.deadline.end()
      await chunks.return()
    }
  }

  /** The chunks of the response's body. */
  async *#chunks(retry) {
    const reader = this.response.body?.getReader()
    try {
      while (reader) {
        this.deadline.start(retry.stallTimeout)
        const { done, value } = await reader.read()
        this.deadline.stop()
        if (done) break
        yield value
      }
    } catch (error) {
      throw transient(error, this.deadline.signal)
    } finally {
      this.deadline.stop()
      reader?.cancel().catch(() => {})
    }
  }

  async *#raw(chunks, position) {
    const { headers, status } = this.response
    for await (const chunk of chunks) {
      const fresh = position.take(chunk)
      if (fresh) yield fresh
    }
    const offset = headers.get('Stream-Next-Offset')
    if (offset !== null) position.reach(offset)
    position.cursor = headers.get('Stream-Cursor') ?? position.cursor
    if (headers.get('Stream-Closed') === 'true') position.end(headers.get('Upstream-Outcome'))
    else if (offset === null) throw new ProxyError(status, null, 'the answer names no Stream-Next-Offset')
  }

  async *#events(chunks, position) {
    const isBase64 = this.response.headers.get('Stream-SSE-Data-Encoding') === 'base64'
    const decode = isBase64 ? fromBase64 : (text) => new TextEncoder().encode(text)
    const decoder = new TextDecoder()
    const parser = new EventStreamParser()
    let isEmpty = true
    for await (const chunk of chunks) {
      for (const { event, data } of parser.push(decoder.decode(chunk, { stream: true }))) {
        isEmpty = false
        if (event === 'control') control(JSON.parse(data), position)
        if (event !== 'data') continue
        const fresh = position.take(decode(data))
        if (fresh) yield fresh
      }
      if (position.closed) return
    }
    if (isEmpty) throw new Transient('the answer was empty')
  }
}

/** Moves `position` as a control event says. */
function control({ streamNextOffset, streamCursor, streamClosed, upstreamOutcome }, position) {
  if (streamNextOffset) position.reach(streamNextOffset)
  position.cursor = streamCursor ?? position.cursor
  if (streamClosed) position.end(upstreamOutcome)
}

const isOnline = () => globalThis.navigator?.onLine !== false

/** How patient the read loop still is: failures and fruitless answers in a row. */
class Patience {
  #retry
  #signal
  #failures = 0
  #idle = 0
  #offline = 0 // ms of waiting while offline; counted by pauses, because a clock runs on while a machine sleeps

  constructor(retry, signal) {
    this.#retry = retry
    this.#signal = signal
  }

  /** Something worked: the counts begin again. */
  renew() {
    this.#failures = 0
    this.#offline = 0
  }

  /**
   * An answer ended in order. One that brings nothing is right after a long wait. If it came at once, the pauses here
   * keep the loop from asking without rest.
   */
  async answered(broughtBytes, milliseconds) {
    this.renew()
    this.#idle = broughtBytes || milliseconds > 1_000 ? 0 : this.#idle + 1
    if (this.#idle > 1) await pause(Math.min(1_000, 25 * 2 ** this.#idle), this.#signal)
  }

  /** Waits before the next attempt. Throws `error` if it is not a Transient, TypeError when the retries are used up. */
  async failed(error) {
    const retry = this.#retry
    if (this.#signal.aborted) throw aborted(this.#signal)
    if (!(error instanceof Transient)) throw error
    const isOffline = !isOnline() // a browser that knows itself offline waits for its network
    if (isOffline) this.#offline += retry.maxDelay
    else this.#failures++
    if (this.#failures >= retry.attempts || this.#offline > retry.offlineTimeout) throw networkError(error)
    await pause(isOffline ? retry.maxDelay : backoff(this.#failures, error, retry), this.#signal)
  }
}

/**
 * The stream's bytes from `position` to its end, over as many connections as it takes. `first` is a Reading that is
 * open already, or undefined. Throws TypeError when the retries are used up.
 */
export async function* readToEnd(position, first, options) {
  const { retry, signal } = options
  const patience = new Patience(retry, signal)
  let reading = first
  while (!position.closed) {
    const before = position.bytesRead
    const began = Date.now()
    try {
      reading ??= await Reading.open(position, options)
      for await (const bytes of reading.bytes(position, retry)) {
        patience.renew()
        yield bytes
      }
      if (position.closed) return
      await patience.answered(position.bytesRead > before, Date.now() - began)
    } catch (error) {
      await patience.failed(error)
    } finally {
      reading = null
    }
  }
}

/** A body that pulls from readToEnd. Cancelling it, or `signal`, ends the reading and nothing else. */
export class DurableBody {
  #source
  #position
  #signal
  #reading
  #onMove
  #onEnd
  #onAbort

  /**
   * `reading` is the AbortController of `source`. `onMove` is called after each chunk, `onEnd` when the stream was read
   * to its end or cannot be read any more.
   */
  constructor({ source, position, signal, reading, onMove, onEnd }) {
    this.#source = source
    this.#position = position
    this.#signal = signal
    this.#reading = reading
    this.#onMove = onMove
    this.#onEnd = onEnd
  }

  start(controller) {
    this.#onAbort = () => {
      this.#reading.abort(aborted(this.#signal))
      controller.error(aborted(this.#signal))
    }
    if (this.#signal.aborted) this.#onAbort()
    else this.#signal.addEventListener('abort', this.#onAbort)
  }

  async pull(controller) {
    try {
      const { done, value } = await this.#source.next()
      if (!done) {
        this.#onMove()
        return controller.enqueue(value)
      }
      this.#onEnd()
      this.#release()
      const { outcome, bytesRead } = this.#position
      if (outcome !== 'complete') throw new IncompleteStreamError(outcome, bytesRead)
      controller.close()
    } catch (error) {
      if (error instanceof ProxyError) this.#onEnd()
      controller.error(error)
    }
  }

  cancel(reason) {
    this.#release()
    this.#reading.abort(reason)
  }

  #release() {
    this.#signal.removeEventListener('abort', this.#onAbort)
  }
}
