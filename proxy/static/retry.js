/** When to ask again and how long to wait: deadlines and back-off. Internal. */

import { aborted, networkError, Transient } from './errors.js'

/** Counts, and times in milliseconds. `retry` in the options replaces any of them. */
export const RETRY = {
  attempts: 10, // failures in a row, without a new byte, before reading gives up
  attachAttempts: 3, // the same for the first request of a call, whose caller still waits
  baseDelay: 250, // the first back-off; it doubles, with full jitter
  maxDelay: 5_000, // the longest back-off
  headTimeout: 15_000, // for a response that the proxy can begin at once
  stallTimeout: 90_000, // without a byte; longer than any long-poll or keep-alive interval
  offlineTimeout: 300_000, // how long a browser that knows itself offline waits for its network
}

/** The longest Retry-After (ms) that is honoured. A page does not wait for longer. */
const MAX_RETRY_AFTER = 30_000

/** A signal that fires with the caller's, or with a Transient when the time of `start` runs out before `stop`. */
export class Deadline {
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

  /** Gives the next wait so many milliseconds. */
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

/** Resolves after `milliseconds`, or when the browser is online again. Rejects when `signal` fires. */
export function pause(milliseconds, signal) {
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

/** The time (ms) to wait after `failures` failures in a row, the last of which is `error`. */
export function backoff(failures, error, retry) {
  const delay = Math.random() * Math.min(retry.maxDelay, retry.baseDelay * 2 ** (failures - 1))
  return Math.max(delay, Math.min(error.retryAfter || 0, MAX_RETRY_AFTER))
}

/** Runs `attempt(isLast)` until it succeeds, throws anything but a Transient, or has failed `attempts` times. */
export async function retrying(attempt, attempts, retry, signal) {
  for (let failures = 1; ; failures++) {
    try {
      return await attempt(failures >= attempts)
    } catch (error) {
      if (signal.aborted) throw aborted(signal)
      if (!(error instanceof Transient)) throw error
      if (failures >= attempts) throw networkError(error)
      await pause(backoff(failures, error, retry), signal)
    }
  }
}

/**
 * fetch that follows no redirect: it would take credentials and signed URLs to another server. A failure to get a
 * response is a Transient; when `outer` has fired, its reason.
 */
export async function send(fetch, url, init, outer) {
  try {
    return await fetch(url, { ...init, redirect: 'error' })
  } catch (error) {
    if (outer.aborted) throw aborted(outer)
    throw transient(error, init.signal)
  }
}

/** `error` of a request or a read as a Transient; `signal` is its Deadline's, which may be the cause. */
export function transient(error, signal) {
  const reason = signal?.aborted ? signal.reason : error
  return reason instanceof Transient ? reason : new Transient(reason?.message ?? 'the connection was lost')
}
