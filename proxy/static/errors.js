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

/** What the caller gets when the retries are used up. `error` is the last failure. */
export function networkError(error) {
  // The Vercel SDK takes a TypeError whose message says "network" as a disconnect, after which it may resume.
  return new TypeError(`network error: ${error.message}`, { cause: error })
}

/** The reason of a signal that has fired. */
export const aborted = (signal) => signal.reason ?? new DOMException('aborted', 'AbortError')

/** `{code, message}` of the proxy's error body. `code` is null if `text` is not one. */
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
