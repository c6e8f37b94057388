/**
 * Durable fetch: a request goes to its upstream through the proxy, and its answer survives dropped connections, reloads
 * and restarts, because it is read back from a durable stream at the exact byte where reading stopped.
 *
 * Owns the life of a request, from the create to the stored credentials. reading.js owns the read loop. vercel.js and
 * tanstack.js know the SDKs. Needs fetch and streams: current browsers, Node 20. Types are in client.d.ts.
 */

import { failureOf } from './answers.js'
import { DurableBody } from './body.js'
import { CredentialStore, extractStreamIdFromUrl, getDefaultStorage, isUrlExpired } from './credentials.js'
import { decoded, failing } from './encoding.js'
import { aborted, isGone } from './errors.js'
import { Position, START } from './position.js'
import { Reading, readToEnd, withQuery } from './reading.js'
import { absolute, answerHeaders, createHeaders, describe, fingerprint, randomKey, refusal } from './request.js'
import { Deadline, RETRY, retrying, send } from './retry.js'

export {
  createStorageKey,
  extractExpiresFromUrl,
  extractStreamIdFromUrl,
  getDefaultStorage,
  isUrlExpired,
  loadCredentials,
  MemoryStorage,
  removeCredentials,
  saveCredentials,
} from './credentials.js'
export { IncompleteStreamError, ProxyError } from './errors.js'
export { EventStreamParser } from './events.js'

const ignore = () => {}
const never = () => new AbortController().signal

/** Rejects when `signal` fires. */
function whenAborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(aborted(signal))
    signal.addEventListener('abort', () => reject(aborted(signal)), { once: true })
  })
}

/**
 * A function that stops the upstream of a stream. What came before stays readable. Calling it again is harmless. It
 * retries as long as a reader does, because a stop that is lost leaves a call that is paid until the model ends.
 */
export function createAbortFn(streamUrl, fetch, retry) {
  return async () => {
    const patience = { ...RETRY, ...retry }
    const signal = never()
    const attempt = () => sendAbort(streamUrl, fetch ?? globalThis.fetch, patience.headTimeout, signal)
    await retrying(attempt, patience.attempts, patience, signal)
  }
}

/** One attempt to stop an upstream. Only the proxy's own answer counts: 204, or that the stream is gone. */
async function sendAbort(streamUrl, fetch, timeout, signal) {
  const deadline = new Deadline(signal)
  deadline.start(timeout)
  try {
    // keepalive: a stop is often the last thing that happens in a page
    const init = { method: 'PATCH', keepalive: true, signal: deadline.signal }
    const response = await send(fetch, withQuery(streamUrl, 'action=abort'), init, signal)
    if (response.status === 204) return
    const failure = await failureOf(response)
    if (failure.code !== 'STREAM_NOT_FOUND') throw failure
  } finally {
    deadline.stop()
  }
}

/**
 * Makes a fetch whose answers are durable. Every option is in client.d.ts.
 *
 * A call with `requestId` finds the stream of the same request again, also after a reload, until it was read to its end.
 * If the same request of this page has no answer yet, the call waits for it. The same id with another request (by
 * method, URL and body) is a new request.
 */
export function createDurableFetch(options) {
  const client = new DurableClient(options)
  return Object.assign((input, init) => client.fetch(input, init), {
    resume: (requestId, { signal = never() } = {}) => client.attach(requestId, signal),
    abort: (requestId) => client.abort(requestId),
    forget: (requestId) => client.forget(requestId),
    stored: (requestId) => client.credentials.get(requestId),
  })
}

class DurableClient {
  #options
  #retry
  #fetch
  #newest = new Map() // request id -> the newest create under it; only that one may store its credentials
  #underway = new Map() // request id -> {print, settled} of its newest call, until that has an answer

  constructor(options) {
    const { storage = getDefaultStorage(), storagePrefix = 'durable-streams:', proxyUrl } = options
    this.#options = { autoResume: true, resumeFrom: 'start', live: 'sse', abortOnSignal: false, ...options }
    this.#retry = { ...RETRY, ...options.retry }
    this.#fetch = (...args) => (options.fetch ?? globalThis.fetch)(...args)
    this.credentials = new CredentialStore(storage, storagePrefix, proxyUrl)
  }

  async fetch(input, init = {}) {
    const request = await describe(input, init)
    const ids = [init.requestId, init.alias].filter((id) => id !== undefined && id !== null)
    const call = { request, ids, note: init.note, print: null, key: randomKey() }
    if (ids.length) call.print = fingerprint(request)
    if (!this.#options.autoResume || !ids.length) return this.#create(call)
    const [id] = ids
    const earlier = this.#underway.get(id)
    const answer = this.#resumeOrCreate(call, earlier?.print === call.print ? earlier.settled : null)
    const entry = { print: call.print, settled: answer.then(ignore, ignore) }
    this.#underway.set(id, entry)
    return answer.finally(() => this.#underway.get(id) === entry && this.#underway.delete(id))
  }

  /** `earlier` settles when the same request, made before, has its answer or its failure. Null if there is none. */
  async #resumeOrCreate(call, earlier) {
    const { request, ids, print } = call
    const [id] = ids
    if (earlier) await Promise.race([earlier, whenAborted(request.signal)])
    const key = this.credentials.idempotencyKeyOf(id, print) ?? call.key
    const answer = await this.attach(id, request.signal, print)
    if (answer) return answer
    this.credentials.begin(id, key, print)
    const created = await this.#create({ ...call, key })
    // A refusal by the proxy, or by something before it, says nothing about an earlier attempt whose answer was lost.
    if (created.proxyError === null) this.credentials.settle(id)
    return created
  }

  async #create(call) {
    const { request, ids, print, note, key } = call
    const [id] = ids
    const token = {}
    this.#newest.set(id, token)
    try {
      const response = await this.#post(request, key)
      if (response.streamId === null) return response
      const stream = await this.#credentialsOf(response)
      const credentials = { ...stream, idempotencyKey: key, fingerprint: print, ids, note }
      if (this.#newest.get(id) === token) this.credentials.save(credentials)
      return this.#respond(credentials, {
        signal: request.signal,
        position: new Position(),
        given: response.headers,
      })
    } finally {
      if (this.#newest.get(id) === token) this.#newest.delete(id)
    }
  }

  /**
   * Sends the create request. Resolves with the proxy's answer that names a stream, or with a refusal. The option
   * `credentials` of fetch is not used: the proxy takes no cookies, and with CORS for every origin a browser refuses
   * an answer to a request that carries them.
   */
  async #post(request, key) {
    const { proxyUrl, proxyAuthorization } = this.#options
    const { body, signal } = request
    const headers = createHeaders(request, key)
    const attempt = async (isLast) => {
      const secret = typeof proxyAuthorization === 'function' ? await proxyAuthorization() : proxyAuthorization
      if (secret) headers.set('Authorization', `Bearer ${secret}`)
      const response = await send(this.#fetch, proxyUrl, { method: 'POST', headers, body, signal }, signal)
      const isStream = response.ok && extractStreamIdFromUrl(response.headers.get('Location') ?? '')
      const answer = isStream ? response : await refusal(response, isLast)
      if (signal.aborted) throw aborted(signal)
      return answer
    }
    return retrying(attempt, this.#retry.attachAttempts, this.#retry, signal)
  }

  /** What a 201, or the 200 of a replay, says about its stream. */
  async #credentialsOf(response) {
    const { headers } = response
    await response.body?.cancel().catch(ignore)
    const streamUrl = new URL(headers.get('Location'), absolute(this.#options.proxyUrl)).href
    return {
      streamUrl,
      streamId: extractStreamIdFromUrl(streamUrl),
      offset: START,
      skip: 0,
      upstreamContentType: headers.get('Upstream-Content-Type'),
      upstreamContentEncoding: headers.get('Upstream-Content-Encoding'),
      status: Number(headers.get('Upstream-Status')) || 200,
    }
  }

  /**
   * The answer from the stream stored under `id`. Null if there is none, or it expired or is gone, or it belongs to
   * another request than that with the fingerprint `print`. Any other failure keeps the credentials.
   */
  async attach(id, signal, print) {
    const credentials = this.credentials.get(id)
    if (!credentials || (print && (credentials.fingerprint ?? print) !== print)) return null
    if (isUrlExpired(credentials.streamUrl)) {
      this.credentials.forget(credentials)
      return null
    }
    if (signal.aborted) throw aborted(signal)
    const reading = new AbortController()
    const onAbort = () => reading.abort(aborted(signal))
    signal.addEventListener('abort', onAbort)
    try {
      const position = this.#placeOf(credentials)
      const open = await this.#openFirst(credentials, position, reading.signal)
      return this.#respond(credentials, { signal, position, open, reading })
    } catch (error) {
      if (!isGone(error)) throw error
      this.credentials.forget(credentials)
      return null
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** Where a resumed answer begins. */
  #placeOf({ offset, skip, upstreamContentEncoding }) {
    const isInside = this.#options.resumeFrom === 'offset' && !upstreamContentEncoding
    return isInside ? new Position(offset, skip) : new Position()
  }

  /**
   * The first read of a resumed answer. A long-poll may wait for bytes, and SSE may be held back on the way; a read
   * without `live` is answered at once.
   */
  #openFirst({ streamUrl }, position, signal) {
    let live = this.#options.live === 'sse' && 'sse'
    const attempt = () => {
      const options = { url: streamUrl, live, fetch: this.#fetch, retry: this.#retry, signal }
      live = false
      return Reading.open(position, options)
    }
    return retrying(attempt, this.#retry.attachAttempts, this.#retry, signal)
  }

  /** The answer: a Response whose body reads the stream to its end. */
  #respond(credentials, { signal, position, given = [], open, reading = new AbortController() }) {
    const { streamUrl, streamId, upstreamContentType, status, note } = credentials
    const abort = () => this.#stop(credentials, position)
    if (this.#options.abortOnSignal) {
      signal.addEventListener('abort', () => position.closed || abort().catch(ignore), { once: true })
    }
    const isBodiless = status === 204 || status === 205 // fetch requires it; there is nothing to read
    if (isBodiless) {
      position.close('complete')
      this.credentials.forget(credentials)
    }
    const body = isBodiless ? null : this.#body(credentials, { signal, position, open, reading })
    const response = new Response(body, { status, headers: answerHeaders(given, upstreamContentType) })
    const wasResumed = open !== undefined
    Object.assign(response, { streamId, streamUrl, upstreamContentType, wasResumed, note, proxyError: null, abort })
    return Object.defineProperties(response, {
      offset: { get: () => position.offset, enumerable: true },
      outcome: { get: () => position.outcome, enumerable: true },
    })
  }

  #body(credentials, { signal, position, open, reading }) {
    const { streamUrl, streamId, upstreamContentEncoding } = credentials
    const options = { url: streamUrl, live: this.#options.live, fetch: this.#fetch, retry: this.#retry }
    const source = readToEnd(position, open, { ...options, signal: reading.signal })
    const onMove = () => {
      const { offset, skip } = position
      this.credentials.save({ ...credentials, offset, skip }, (id) => this.credentials.get(id)?.streamId === streamId)
    }
    const onEnd = () => this.credentials.forget(credentials)
    const pulled = new DurableBody({ source, position, signal, reading, onMove, onEnd })
    const body = new ReadableStream(pulled, { highWaterMark: 0 })
    try {
      return decoded(body, upstreamContentEncoding)
    } catch (error) {
      return failing(error)
    }
  }

  /**
   * Stops the upstream of an answer. Its credentials are forgotten at once, so that a page that is reloaded now does not
   * resume it. While the stop fails to arrive they are stored again, so that another page can read or stop the stream.
   */
  async #stop(credentials, position) {
    const onLost = (error) => {
      if (!position.closed) this.credentials.save(credentials, (id) => !this.credentials.get(id))
      throw error
    }
    const stop = createAbortFn(credentials.streamUrl, (...args) => this.#fetch(...args).catch(onLost), this.#retry)
    this.credentials.forget(credentials)
    await stop()
    this.credentials.forget(credentials)
  }

  async abort(requestId) {
    const credentials = this.credentials.get(requestId)
    if (!credentials) return false
    try {
      await createAbortFn(credentials.streamUrl, this.#fetch, this.#retry)()
    } catch (error) {
      if (isGone(error)) this.credentials.forget(credentials)
      throw error
    }
    this.credentials.forget(credentials)
    return true
  }

  forget(requestId) {
    const credentials = this.credentials.get(requestId)
    if (credentials) this.credentials.forget(credentials)
  }
}
