/**
 * What the chat transports share: a call to the upstream that can be stopped at any time, and the JSON events of an
 * answer.
 *
 * Knows no SDK: vercel.js and tanstack.js do. Types are in chat.d.ts.
 */

import { EventStreamParser } from './client.js'

/**
 * Time (ms) that a stop waits for the 201, which names the stream to abort. After it, the request itself is cancelled.
 * The proxy needs about 500 ms to notice that a client has gone, and a stop should reach the upstream within 1 s.
 */
const STOP_GRACE = 300

export const abortError = () => new DOMException('The request was aborted', 'AbortError')

/** Resolves after the current task and its microtasks. */
export const macrotask = () => new Promise((resolve) => setTimeout(resolve))

/** The value of an option that may be a function. */
export const resolve = (value) => (typeof value === 'function' ? value() : value)

/** Header fields of an object, a Headers or nothing, as pairs. */
export const entries = (headers) => (headers ? [...new Headers(headers)] : [])

export const onceAborted = (signal, listener) => signal?.addEventListener('abort', listener, { once: true })

/** `promise`, or a rejection as soon as `signal` fires. */
export function unlessAborted(promise, signal) {
  if (!signal) return promise
  return new Promise((settle, reject) => {
    const cancel = () => reject(abortError())
    onceAborted(signal, cancel)
    promise.then(settle, reject).finally(() => signal.removeEventListener('abort', cancel))
    if (signal.aborted) cancel()
  })
}

/** One call to the upstream, from before its 201 to the end of its stream. */
export class Call {
  #cancel = new AbortController()

  /** `create` takes a signal and resolves with a durable response. */
  constructor(create) {
    this.response = null
    this.isOver = false
    this.created = this.#begin(create)
    this.created.catch(() => {}) // the caller that awaits it handles the failure
  }

  async #begin(create) {
    try {
      this.response = await create(this.#cancel.signal)
      return this.response
    } catch (error) {
      this.isOver = true
      throw error
    }
  }

  /**
   * Stops the upstream. Without a 201 there is no stream URL yet, so the stop waits for it. If the upstream is slow to
   * begin, the stop cancels the request instead, and the proxy then cancels its own.
   */
  async stop() {
    const created = this.created.catch(() => null)
    const grace = new Promise((settle) => setTimeout(settle, STOP_GRACE))
    const response = this.response ?? (await Promise.race([created, grace]))
    if (!response) this.cancel()
    await (response ?? (await created))?.abort()
  }

  /** Ends the request, or the reading of its answer. */
  cancel() {
    this.#cancel.abort(abortError())
  }
}

/** An async iterator over the JSON events of a server-sent event stream. It skips `[DONE]`. */
export class JsonEvents {
  #reader
  #decoder = new TextDecoder()
  #parser = new EventStreamParser()
  #ready = []
  #isDone = false
  #isCancelled = false

  constructor(body) {
    this.#reader = body.getReader()
  }

  /** The next event as `{done, value}`. Throws when the stream fails, ends inside an event, or was cancelled. */
  async next() {
    while (!this.#ready.length && !this.#isDone) await this.#read()
    if (!this.#ready.length) return { done: true, value: undefined }
    return { done: false, value: JSON.parse(this.#ready.shift()) }
  }

  async #read() {
    const { done, value } = await this.#reader.read()
    if (this.#isCancelled) throw abortError()
    this.#isDone = done
    const text = done ? `${this.#decoder.decode()}\n\n` : this.#decoder.decode(value, { stream: true })
    for (const { data } of this.#parser.push(text)) if (data !== '[DONE]') this.#ready.push(data)
  }

  /** Ends the reading. The upstream goes on. */
  cancel() {
    this.#isCancelled = true
    return this.#reader.cancel().catch(() => {})
  }
}

/** `response` if it is ok; otherwise throws an Error with the proxy's or the upstream's message, status and code. */
export async function ensureOk(response, fallback) {
  if (response.ok) return response
  const { code, message } = response.proxyError ?? {}
  const text = await response.text()
  throw Object.assign(new Error(message || text || fallback), { status: response.status, code: code ?? null })
}
