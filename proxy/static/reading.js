/**
 * Reading a durable stream to its end, over as many connections as it takes: catch-up, long-poll and SSE, retries with
 * back-off, and the exact place where reading stands. Internal.
 */

import { failureOf } from './answers.js'
import { aborted, networkError, Transient, Unusable } from './errors.js'
import { EventStreamParser } from './events.js'
import { backoff, Deadline, pause, send, transient } from './retry.js'

/** `query` added to `url`. The rest of a pre-signed URL must stay spelled as it was signed, so it is never parsed. */
export const withQuery = (url, query) => `${url}${url.includes('?') ? '&' : '?'}${query}`

/** Whether an answer is that of a stream's events. Text events would not carry every byte, so data is base64. */
function isEventStream({ status, headers }) {
  return status === 200 && isEventType(headers) && headers.get('Stream-SSE-Data-Encoding') === 'base64'
}

/** Whether an answer is that of a plain read: catch-up or long-poll. */
const isPlain = ({ status, headers }) =>
  (status === 200 || status === 204) && Boolean(headers.get('Stream-Next-Offset'))

const isEventType = (headers) => (headers.get('Content-Type') ?? '').startsWith('text/event-stream')

/**
 * One read of a stream at a position. Its head has arrived and is the stream's own: no byte is believed before that,
 * because anything between here and the proxy can answer 200.
 */
export class Reading {
  #response
  #deadline
  #isEvents
  #hasSpoken = false // an event has come

  constructor(response, deadline, isEvents) {
    this.#response = response
    this.#deadline = deadline
    this.#isEvents = isEvents
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
      const isEvents = live === 'sse' && isEventType(response.headers)
      if (isEvents ? isEventStream(response) : isPlain(response)) return new Reading(response, deadline, isEvents)
      const failure = await failureOf(response)
      throw live === 'sse' && failure.status === 400 ? new Unusable(failure.message) : failure
    } catch (error) {
      deadline.end()
      throw error
    }
  }

  /** The new bytes; `position` moves with them. A cut is a Transient. The end of the response is just the end. */
  async *bytes(position, retry) {
    const chunks = this.#chunks(retry)
    try {
      yield* this.#isEvents ? this.#events(chunks, position) : this.#raw(chunks, position)
    } finally {
      this.#deadline.end()
      await chunks.return()
    }
  }

  /** The chunks of the response's body. */
  async *#chunks(retry) {
    const reader = this.#response.body?.getReader()
    try {
      while (reader) {
        // The first event is due at once, with the bytes that are there or the place where reading stands.
        this.#deadline.start(this.#isEvents && !this.#hasSpoken ? retry.headTimeout : retry.stallTimeout)
        const { done, value } = await reader.read()
        this.#deadline.stop()
        if (done) break
        yield value
      }
    } catch (error) {
      throw this.#failure(error)
    } finally {
      this.#deadline.stop()
      reader?.cancel().catch(() => {})
    }
  }

  #failure(error) {
    const { signal } = this.#deadline
    const failure = transient(error, signal)
    const isMuted = this.#hasSpoken && failure === signal.reason // not even a keep-alive came for `stallTimeout`
    return isMuted ? new Unusable(failure.message) : failure
  }

  async *#raw(chunks, position) {
    const { headers } = this.#response
    for await (const chunk of chunks) {
      const fresh = position.take(chunk)
      if (fresh) yield fresh
    }
    position.reach(headers.get('Stream-Next-Offset'))
    position.cursor = headers.get('Stream-Cursor') ?? position.cursor
    position.needsOutcome = false
    if (headers.get('Stream-Closed') === 'true') position.close(headers.get('Upstream-Outcome') ?? 'complete')
  }

  async *#events(chunks, position) {
    const decoder = new TextDecoder()
    const parser = new EventStreamParser()
    for await (const chunk of chunks) {
      for (const { event, data } of parser.push(decoder.decode(chunk, { stream: true }))) {
        this.#hasSpoken = true
        if (event === 'control') control(data, position)
        const fresh = event === 'data' ? position.take(fromBase64(data)) : null
        if (fresh) yield fresh
      }
      if (position.closed || position.needsOutcome) return
    }
    if (!this.#hasSpoken) throw new Transient('the answer was empty')
  }
}

/** The bytes of a data event. What is not base64 is no event of the stream's. */
function fromBase64(text) {
  try {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text)
    return Uint8Array.from(atob(text), (char) => char.charCodeAt(0))
  } catch {
    throw new Transient('a data event is not base64')
  }
}

function parseControl(data) {
  try {
    const fields = JSON.parse(data)
    if (fields.streamNextOffset && typeof fields.streamNextOffset === 'string') return fields
  } catch {
    // not JSON, or null
  }
  throw new Transient('a control event cannot be understood')
}

/** Moves `position` as a control event says. */
function control(data, position) {
  const { streamNextOffset, streamCursor, streamClosed, upstreamOutcome } = parseControl(data)
  position.reach(streamNextOffset)
  if (typeof streamCursor === 'string') position.cursor = streamCursor
  if (streamClosed !== true) return
  if (upstreamOutcome) position.close(String(upstreamOutcome))
  else position.needsOutcome = true // the head of a plain read at the end has it
}

/** Reads in one live mode that bring nothing, after which the other mode is tried. */
const MAX_FRUITLESS = 3

/**
 * The live mode of the next read. SSE is faster, but something between here and the proxy may hold it back or cut it
 * while long-polls pass. So after three reads in a row without a new byte the mode changes, and changes back when the
 * other one does no better. A caller that chose long-poll keeps it.
 */
class LiveMode {
  #fruitless = 0
  #mayChange

  constructor(live) {
    this.current = live
    this.#mayChange = live === 'sse'
  }

  worked() {
    this.#fruitless = 0
  }

  failed(error, broughtBytes) {
    this.#fruitless = broughtBytes ? 0 : this.#fruitless + 1
    if (!this.#mayChange || (this.#fruitless < MAX_FRUITLESS && !(error instanceof Unusable))) return
    this.current = this.current === 'sse' ? 'long-poll' : 'sse'
    this.#fruitless = 0
  }
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
  const mode = new LiveMode(options.live)
  let reading = first
  while (!position.closed) {
    const { bytesRead, marks } = position
    const began = Date.now()
    try {
      reading ??= await Reading.open(position, { ...options, live: position.needsOutcome ? false : mode.current })
      for await (const bytes of reading.bytes(position, retry)) {
        patience.renew()
        yield bytes
      }
      if (position.closed) return
      mode.worked()
      await patience.answered(position.bytesRead > bytesRead, Date.now() - began)
    } catch (error) {
      if (position.marks > marks) patience.renew() // the stream is there; it has nothing new
      mode.failed(error, position.bytesRead > bytesRead)
      await patience.failed(error)
    } finally {
      reading = null
    }
  }
}
