/**
 * Durable fetch: a request goes to its upstream through the proxy, and its answer survives dropped connections,
 * reloads and restarts, because it is read back from a durable stream at the exact byte where reading stopped.
 *
 * Owns the request to the proxy, its answer and the stored credentials; reading.js owns the read loop, and no SDK is
 * known here (transports.js does). Needs fetch and streams: current browsers, Node 20. Types stand in client.d.ts.
 */

import {
  EventStreamParser,
  IncompleteStreamError,
  Position,
  ProxyError,
  RETRY,
  Reading,
  START,
  Transient,
  aborted,
  parseError,
  proxyError,
  readToEnd,
  retrying,
  send,
  withQuery,
} from './reading.js'

export { EventStreamParser, IncompleteStreamError, ProxyError }

// ── Credentials ──

/** A storage that lives as long as this object. */
export class MemoryStorage {
  #items = new Map()

  get length() {
    return this.#items.size
  }
  key(index) {
    return [...this.#items.keys()][index] ?? null
  }
  getItem(key) {
    return this.#items.get(key) ?? null
  }
  setItem(key, value) {
    this.#items.set(key, String(value))
  }
  removeItem(key) {
    this.#items.delete(key)
  }
}

const memory = new MemoryStorage()

/** localStorage where a document has one that may be used, else one MemoryStorage for this process. */
export function getDefaultStorage() {
  try {
    if (typeof document !== 'undefined' && globalThis.localStorage) return globalThis.localStorage
  } catch {
    // a sandboxed frame, or cookies blocked: reading the property throws
  }
  return memory
}

/** One key for each proxy and request id, so that what one proxy gave is never offered to another. */
export function createStorageKey(prefix, proxyUrl, requestId) {
  return `${prefix}${String(proxyUrl).replace(/\/+$/, '')}:${requestId}`
}

/** Stores credentials. False when the storage refuses (full, forbidden): the stream itself is not harmed. */
export function saveCredentials(storage, key, credentials) {
  const text = JSON.stringify(credentials)
  try {
    storage.setItem(key, text)
    return true
  } catch {
    try {
      removeExpired(storage)
      storage.setItem(key, text)
      return true
    } catch {
      return false
    }
  }
}

/** The credentials under `key`, or null: none, not ours, or not readable. */
export function loadCredentials(storage, key) {
  try {
    const credentials = JSON.parse(storage.getItem(key))
    return typeof credentials?.streamUrl === 'string' ? credentials : null
  } catch {
    return null
  }
}

/** Removes the credentials under `key`; with `streamId`, only if they are still that stream's. */
export function removeCredentials(storage, key, streamId) {
  try {
    if (streamId === undefined || loadCredentials(storage, key)?.streamId === streamId) storage.removeItem(key)
  } catch {
    // a storage that refuses to forget cannot be helped: the credentials expire by themselves
  }
}

function removeExpired(storage) {
  const keys = Array.from({ length: storage.length ?? 0 }, (_, index) => storage.key(index))
  for (const key of keys) {
    const credentials = loadCredentials(storage, key)
    if (credentials && isUrlExpired(credentials.streamUrl)) storage.removeItem(key)
  }
}

/** The stream's id in a pre-signed URL (absolute or not), null when there is none. */
export function extractStreamIdFromUrl(url) {
  return /\/v1\/proxy\/([^/?#]+)/.exec(url)?.[1] ?? null
}

/** When a pre-signed URL expires, in seconds since 1970, null when it does not say. */
export function extractExpiresFromUrl(url) {
  const digits = /[?&]expires=(\d+)(?=&|#|$)/.exec(url)?.[1]
  return digits === undefined ? null : Number(digits)
}

/** Whether a pre-signed URL (or its `expires`, in seconds) lies in the past at `now` (milliseconds). */
export function isUrlExpired(urlOrExpires, now = Date.now()) {
  const expires = typeof urlOrExpires === 'number' ? urlOrExpires : extractExpiresFromUrl(urlOrExpires)
  return expires !== null && now >= expires * 1000
}

// ── The request ──

/**
 * A function that stops the upstream of a stream. What came before stays readable. Repeating it is harmless. It is as
 * patient as a reader: a stop that is lost with the network is paid until the model ends by itself.
 */
export function createAbortFn(streamUrl, fetch, retry) {
  return async () => {
    const patience = { ...RETRY, ...retry }
    const { signal } = new AbortController()
    const attempt = async () => {
      // keepalive: a stop is often the last thing that happens in a page
      const init = { method: 'PATCH', keepalive: true }
      const response = await send(fetch ?? globalThis.fetch, withQuery(streamUrl, 'action=abort'), init, signal)
      if (response.status >= 500) throw new Transient(`the proxy answered ${response.status}`)
      if (!response.ok && response.status !== 404) throw await proxyError(response)
    }
    await retrying(attempt, patience.attempts, patience, signal)
  }
}

const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join('')
const hex = (byte) => byte.toString(16).padStart(2, '0')

/** Relative URLs are relative to the page, as fetch takes them. */
const absolute = (url) => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href)

const ignore = () => {}

/** Rejects when `signal` fires. */
function whenAborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(aborted(signal))
    signal.addEventListener('abort', () => reject(aborted(signal)), { once: true })
  })
}

/** What fetch would send: URL, method, headers, and the body as bytes, which a retry can send again. */
async function describe(input, init) {
  const source = typeof input === 'object' && 'url' in input ? input : { url: String(input) }
  const url = absolute(source.url)
  url.hash = ''
  const method = (init.method ?? source.method ?? 'GET').toUpperCase()
  const headers = new Headers(init.headers ?? source.headers)
  const given = init.body ?? (source.body ? await source.arrayBuffer() : null)
  const whole = new Response(given)
  const type = whole.headers.get('Content-Type')
  if (type && !headers.has('Content-Type')) headers.set('Content-Type', type)
  const body = given === null ? null : new Uint8Array(await whole.arrayBuffer())
  const signal = init.signal ?? source.signal ?? new AbortController().signal
  return { url: url.href, method, headers, body, signal }
}

/** 64 bits of FNV-1a in two halves: tells one question from the next, not a friend from a foe. */
function fingerprint({ url, method, headers, body }) {
  const boundary = /boundary=([^;]+)/.exec(headers.get('Content-Type') ?? '')?.[1] // new for every form that is sent
  const content = boundary ? new TextEncoder().encode(new TextDecoder().decode(body).replaceAll(boundary, '')) : body
  let [low, high] = [0x811c9dc5, 0x01000193]
  for (const bytes of [new TextEncoder().encode(`${method} ${url}\n`), content ?? []]) {
    for (const byte of bytes) {
      low = Math.imul(low ^ byte, 0x01000193)
      high = Math.imul(high ^ byte, 0x5bd1e995)
    }
  }
  return [low, high].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('')
}

const OF_THE_PROXY =
  /^(location|content-|cache-|access-control-|connection|keep-alive|transfer-|vary|cross-origin-|x-content-type|idempotent-)/

/** The headers of the answer as its upstream gave them, as far as the proxy passes them on. */
function answerHeaders(given, type) {
  const headers = new Headers([...given].filter(([name]) => !OF_THE_PROXY.test(name)))
  if (type) headers.set('Content-Type', type)
  return headers
}

/** The proxy's answer when it made no stream: an error of the upstream's, or one of its own. */
async function refused(response) {
  const { headers } = response
  const status = headers.get('Upstream-Status') ?? ''
  const isUpstreams = response.status === 502 && /^[45]\d\d$/.test(status)
  const text = isUpstreams ? response.body : await response.text()
  const type = headers.get('Upstream-Content-Type') ?? headers.get('Content-Type')
  const init = { status: isUpstreams ? Number(status) : response.status, headers: answerHeaders(headers, type) }
  return Object.assign(new Response(text, init), {
    streamId: null,
    streamUrl: null,
    offset: null,
    upstreamContentType: type,
    wasResumed: false,
    outcome: null,
    proxyError: isUpstreams ? null : parseError(text),
    abort: async () => {},
  })
}

/**
 * Makes a fetch whose answers are durable. See client.d.ts for every option.
 *
 * A call with `requestId` finds the stream of the same request again, after a reload too, as long as it is not
 * read to its end, and waits for one of this page that has no answer yet; the same id with another request (by method,
 * URL and body) is a new request.
 */
export function createDurableFetch(options) {
  const { proxyUrl, proxyAuthorization, autoResume = true, storagePrefix = 'durable-streams:' } = options
  const { resumeFrom = 'start', live = 'sse', abortOnSignal = false } = options
  const storage = options.storage ?? getDefaultStorage()
  const retry = { ...RETRY, ...options.retry }
  const fetch = (...args) => (options.fetch ?? globalThis.fetch)(...args)
  const keyOf = (requestId) => createStorageKey(storagePrefix, proxyUrl, requestId)
  const latest = new Map() // request id -> the newest request under it: only that one may store its credentials
  const underway = new Map() // request id -> {print, settled} of its newest call, until that has an answer

  async function durableFetch(input, init = {}) {
    const { requestId, alias } = init
    const request = await describe(input, init)
    const ids = [requestId, alias].filter((id) => id !== undefined && id !== null)
    const print = ids.length ? fingerprint(request) : null
    if (!autoResume || !ids.length) return create(request, init, ids, print)
    const earlier = underway.get(ids[0])
    const answer = resumeOrCreate(request, init, ids, print, earlier?.print === print ? earlier.settled : null)
    const call = { print, settled: answer.then(ignore, ignore) }
    underway.set(ids[0], call)
    return answer.finally(() => underway.get(ids[0]) === call && underway.delete(ids[0]))
  }

  /** `earlier` settles when the same request, which was made before and has no answer yet, has one or none. */
  async function resumeOrCreate(request, init, ids, print, earlier) {
    if (earlier) await Promise.race([earlier, whenAborted(request.signal)])
    return (await attach(ids[0], request.signal, print)) ?? create(request, init, ids, print)
  }

  async function create(request, init, ids, print) {
    const token = {}
    latest.set(ids[0], token)
    try {
      const response = await post(request, init)
      if (!response.ok) return refused(response)
      const credentials = { ...(await credentialsOf(response)), fingerprint: print, ids, note: init.note }
      if (latest.get(ids[0]) === token) for (const id of ids) saveCredentials(storage, keyOf(id), credentials)
      return respond(credentials, { signal: request.signal, given: response.headers, position: new Position() })
    } finally {
      if (latest.get(ids[0]) === token) latest.delete(ids[0])
    }
  }

  /** Asks the proxy to ask the upstream. */
  async function post({ url, method, headers, body, signal }, init) {
    const sent = new Headers(headers)
    if (headers.has('Authorization')) sent.set('Upstream-Authorization', headers.get('Authorization'))
    sent.delete('Authorization')
    sent.set('Upstream-URL', url)
    sent.set('Upstream-Method', method)
    // By its key the proxy knows a repeated request again, so that a lost 201 costs no second call upstream.
    if (!headers.has('Idempotency-Key')) sent.set('Idempotency-Key', randomId())
    const secret = typeof proxyAuthorization === 'function' ? await proxyAuthorization() : proxyAuthorization
    if (secret) sent.set('Authorization', `Bearer ${secret}`)
    const message = { method: 'POST', headers: sent, body, signal }
    if (init.credentials) message.credentials = init.credentials
    return retrying(() => send(fetch, proxyUrl, message, signal), retry.attachAttempts, retry, signal)
  }

  /** What a 201 (or the 200 of a replay) tells of its stream. */
  async function credentialsOf(response) {
    const location = response.headers.get('Location')
    if (!location) throw new ProxyError(response.status, null, 'the proxy named no Location: is this its URL?')
    await response.body?.cancel().catch(() => {})
    const streamUrl = new URL(location, absolute(proxyUrl)).href
    return {
      streamUrl,
      streamId: extractStreamIdFromUrl(streamUrl),
      offset: START,
      skip: 0,
      upstreamContentType: response.headers.get('Upstream-Content-Type'),
      upstreamContentEncoding: response.headers.get('Upstream-Content-Encoding'),
      status: Number(response.headers.get('Upstream-Status')) || 200,
    }
  }

  /** What is stored under `id`; what another program has put there need not be complete. */
  function stored(id) {
    const credentials = loadCredentials(storage, keyOf(id))
    return credentials && { streamId: extractStreamIdFromUrl(credentials.streamUrl), ids: [id], ...credentials }
  }

  /** Forgets a stream under all its names, but not another stream that took one of them since. */
  function forget({ streamId, ids }) {
    for (const id of ids) removeCredentials(storage, keyOf(id), streamId)
  }

  /** The stream stored under `id`, if it is (still) that of the request with the fingerprint `print`. */
  async function attach(id, signal, print) {
    const credentials = stored(id)
    if (!credentials || (print && (credentials.fingerprint ?? print) !== print)) return null
    if (isUrlExpired(credentials.streamUrl)) {
      forget(credentials)
      return null
    }
    const fromOffset = resumeFrom === 'offset' && !credentials.upstreamContentEncoding
    const position = fromOffset ? new Position(credentials.offset, credentials.skip) : new Position()
    const reading = new AbortController()
    const onAbort = () => reading.abort(aborted(signal))
    // A first long-poll may have to wait for bytes; whoever resumes wants to know at once whether there is a stream.
    const first = { url: credentials.streamUrl, live: live === 'sse' && live, fetch, retry, signal: reading.signal }
    if (signal.aborted) throw aborted(signal)
    signal.addEventListener('abort', onAbort)
    try {
      const open = await retrying(() => Reading.open(position, first), retry.attachAttempts, retry, reading.signal)
      return respond(credentials, { signal, position, open, reading })
    } catch (error) {
      if (!(error instanceof ProxyError)) throw error
      forget(credentials)
      return null
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** The answer: a Response whose body reads the stream to its end. */
  function respond(credentials, { signal, given = [], position, open, reading = new AbortController() }) {
    const { streamUrl, streamId, ids, upstreamContentType, upstreamContentEncoding, status, note } = credentials
    const stop = createAbortFn(streamUrl, (...args) => fetch(...args).catch(onLost), retry)
    async function abort() {
      forget(credentials) // at once: a page that is reloaded now must not bring back what was stopped
      await stop()
      forget(credentials)
    }
    /** It was not stopped yet: whoever comes meanwhile may read or stop it. */
    function onLost(error) {
      for (const id of ids) if (!position.closed && !stored(id)) saveCredentials(storage, keyOf(id), credentials)
      throw error
    }
    if (abortOnSignal)
      signal.addEventListener('abort', () => position.closed || abort().catch(() => {}), { once: true })

    function onMove() {
      for (const id of ids) {
        if (stored(id)?.streamId !== streamId) continue
        saveCredentials(storage, keyOf(id), { ...credentials, offset: position.offset, skip: position.skip })
      }
    }

    const source = readToEnd(position, open, { url: streamUrl, live, fetch, retry, signal: reading.signal })
    let body = durableBody({ position, source, signal, reading, onMove, onEnd: () => forget(credentials) })
    if (upstreamContentEncoding) body = body.pipeThrough(new DecompressionStream(upstreamContentEncoding))
    if (status === 204 || status === 205) {
      body = null // what fetch demands of them; there is nothing to read
      position.end()
      forget(credentials)
    }
    const response = new Response(body, { status, headers: answerHeaders(given, upstreamContentType) })
    const wasResumed = open !== undefined
    Object.assign(response, { streamId, streamUrl, upstreamContentType, wasResumed, note, proxyError: null, abort })
    return Object.defineProperties(response, {
      offset: { get: () => position.offset, enumerable: true },
      outcome: { get: () => position.outcome, enumerable: true },
    })
  }

  return Object.assign(durableFetch, {
    /** The answer stored under `requestId`, or null; never asks the upstream again. */
    resume: (requestId, { signal } = {}) => attach(requestId, signal ?? new AbortController().signal),
    /** Stops the upstream of the stream stored under `requestId` and forgets it; false when there is none. */
    async abort(requestId) {
      const credentials = stored(requestId)
      if (!credentials) return false
      await createAbortFn(credentials.streamUrl, fetch, retry)()
      forget(credentials)
      return true
    },
    /** Forgets what is stored under `requestId`; the stream runs on. */
    forget(requestId) {
      const credentials = stored(requestId)
      if (credentials) forget(credentials)
    },
    /** What is stored under `requestId`, or null. */
    stored,
  })
}

/** A body pulled from `source`. Cancelling it, or `signal`, ends the reading and nothing else. */
function durableBody({ position, source, signal, reading, onMove, onEnd }) {
  let onAbort
  const finish = () => signal.removeEventListener('abort', onAbort)
  return new ReadableStream(
    {
      start(controller) {
        onAbort = () => {
          reading.abort(aborted(signal))
          controller.error(aborted(signal))
        }
        if (signal.aborted) onAbort()
        else signal.addEventListener('abort', onAbort)
      },
      async pull(controller) {
        try {
          const { done, value } = await source.next()
          if (!done) {
            onMove()
            return controller.enqueue(value)
          }
          onEnd()
          finish()
          if (position.outcome !== 'complete') throw new IncompleteStreamError(position.outcome, position.bytesRead)
          controller.close()
        } catch (error) {
          if (error instanceof ProxyError) onEnd() // gone, or no longer ours to read
          controller.error(error)
        }
      },
      cancel(reason) {
        finish()
        reading.abort(reason)
      },
    },
    { highWaterMark: 0 },
  )
}
