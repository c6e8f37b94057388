/** What can go wrong between a page, the proxy and a stream. Internal; client.js exports the first two. */

/** The stream ended, but not as its upstream promised. What was read is a prefix of the answer. */
export class IncompleteStreamError extends Error {
  constructor(outcome, bytesRead) {
    super(`the answer is incomplete: ${outcome} after ${bytesRead} bytes`)
    this.name = 'IncompleteStreamError'
    this.outcome = outcome
    this.bytesRead = bytesRead
  }
}

/** The proxy refused to read or abort a stream. `status` is the HTTP status, `code` the proxy's own code or null. */
export class ProxyError extends Error {
  constructor(status, code, message) {
    super(message || `the proxy answered ${status}`)
    this.name = 'ProxyError'
    this.status = status
    this.code = code
  }
}

/** A failure that another attempt may mend. `retryAfter`: the least time (ms) to wait before it. */
export class Transient extends Error {
  constructor(message, retryAfter = 0) {
    super(message)
    this.retryAfter = retryAfter
  }
}

/** A Transient that shows at once that SSE does not work here, so that the next attempt is a long-poll. */
export class Unusable extends Transient {}

/** What the caller gets when the retries are used up. `error` is the last failure. */
export function networkError(error) {
  // The Vercel SDK takes a TypeError whose message says "network" as a disconnect, after which it may resume.
  return new TypeError(`network error: ${error.message}`, { cause: error })
}

/** The reason of a signal that has fired. */
export const aborted = (signal) => signal.reason ?? new DOMException('aborted', 'AbortError')

/**
 * Whether the proxy itself says that a stream is gone, or that its URL is not valid any more. Only then are credentials
 * forgotten: anything between here and the proxy can answer 404 or 403, and a forgotten stream is paid a second time.
 */
export const isGone = (error) =>
  error instanceof ProxyError && /^(STREAM_NOT_FOUND|SIGNATURE_[A-Z_]+)$/.test(error.code ?? '')

const OWN_CODE = /^[A-Z][A-Z0-9_]{0,63}$/

/** `{code, message}` of the proxy's own error body. `code` is null if `text` is anything else. */
export function parseError(text) {
  try {
    const { code, message } = JSON.parse(text).error
    if (OWN_CODE.test(code) && typeof message === 'string') return { code, message }
  } catch {
    // not JSON, or not an object
  }
  return { code: null, message: '' }
}
