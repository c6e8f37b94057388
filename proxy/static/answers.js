/**
 * What an answer means that is not what was asked for: who gave it, and whether to ask again. Internal.
 *
 * Between a page and the proxy there may be load balancers, CDNs, login pages and virus scanners. Each of them can answer
 * with any status. An error is the proxy's own only if its body is the proxy's error object.
 */

import { ProxyError, parseError, Transient } from './errors.js'

/**
 * Statuses after which the same request is sent again. Most come from something between the client and the proxy. To
 * repeat is safe: a read changes nothing, and a create carries an `Idempotency-Key`, so the upstream is called once.
 * `proxy/client/options.py` has the same list; a test compares the two.
 */
export const TRANSIENT_STATUSES = new Set([
  408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 598, 599,
])

/** The proxy's own statuses for a create that has not called the upstream, so that the call may be made again. */
const NOT_BEGUN = new Set([408, 425, 429, 503])

/** How much of an error's body is read (bytes), and for how long (ms). The proxy passes on at most 64 KiB. */
const ERROR_BODY = { bytes: 1 << 20, milliseconds: 10_000 }

/** The body of an error, as far as it comes within the bounds. */
export async function errorBody(response) {
  const parts = []
  const reader = response.body?.getReader()
  const timer = setTimeout(() => reader?.cancel().catch(() => {}), ERROR_BODY.milliseconds)
  try {
    for (let size = 0; reader && size < ERROR_BODY.bytes; ) {
      const { done, value } = await reader.read()
      if (done) break
      parts.push(value)
      size += value.length
    }
  } catch {
    // what came before is still of use
  } finally {
    clearTimeout(timer)
    reader?.cancel().catch(() => {})
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer())
}

/** The wait (ms) that the response asks for by `Retry-After`: seconds or a date. 0 if it asks for none. */
function retryAfter(headers) {
  const value = headers.get('Retry-After') ?? ''
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value) * 1000
  const now = Date.parse(headers.get('Date') ?? '') || Date.now() // the server's clock, where the page may see it
  return Math.max(Date.parse(value) - now || 0, 0)
}

const unexpected = (status) => `the answer ${status} is not the proxy's`

/** The failure that an answer to a read or an abort stands for: a Transient if another attempt may help. */
export async function failureOf(response) {
  const { status, headers } = response
  const { code, message } = parseError(new TextDecoder().decode(await errorBody(response)))
  if (code === null) return new Transient(unexpected(status), retryAfter(headers))
  if (TRANSIENT_STATUSES.has(status)) return new Transient(`the proxy answered ${status} ${code}`, retryAfter(headers))
  return new ProxyError(status, code, message)
}

/** The Transient that an answer to a create stands for, with `code` from its body. Null if the answer is final. */
export function transientCreate({ status, ok, headers }, code) {
  const isTransient = code === null ? ok || TRANSIENT_STATUSES.has(status) : NOT_BEGUN.has(status)
  return isTransient ? new Transient(code ?? unexpected(status), retryAfter(headers)) : null
}

/** Throws if an answer that is final is a success, which a refusal cannot be. */
export function ensureRefusal({ status, ok }) {
  if (ok) throw new ProxyError(status, null, `${unexpected(status)}, it names no stream: is proxyUrl right?`)
}
