/** A request as its upstream should see it, the create request that asks the proxy for it, and its refusal. Internal. */

import { ensureRefusal, errorBody, transientCreate } from './answers.js'
import { decodeAll } from './encoding.js'
import { parseError } from './errors.js'

/** Relative URLs are relative to the page, as in fetch. */
export const absolute = (url) => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href)

const hex = (byte) => byte.toString(16).padStart(2, '0')
/** A random Idempotency-Key. */
export const randomKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join('')

/** What fetch would send: URL, method, headers and signal, and the body as bytes, which a retry can send again. */
export async function describe(input, init) {
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

/** 64 bits of FNV-1a in two halves. It tells one request from the next and is no protection against forgery. */
export function fingerprint({ url, method, headers, body }) {
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

/** The headers of the create request, without the proxy's authorization. They are the same for every attempt. */
export function createHeaders({ url, method, headers }, key) {
  const sent = new Headers(headers)
  if (headers.has('Authorization')) sent.set('Upstream-Authorization', headers.get('Authorization'))
  sent.delete('Authorization')
  sent.set('Upstream-URL', url)
  sent.set('Upstream-Method', method)
  // The key tells the proxy that a request is repeated, so a lost 201 costs no second call to the upstream.
  if (!headers.has('Idempotency-Key')) sent.set('Idempotency-Key', key)
  return sent
}

const OF_THE_PROXY =
  /^(location|content-|cache-|access-control-|connection|keep-alive|transfer-|vary|cross-origin-|x-content-type|idempotent-)/

/** The headers of the answer as the upstream gave them, as far as the proxy passes them on. */
export function answerHeaders(given, type) {
  const headers = new Headers([...given].filter(([name]) => !OF_THE_PROXY.test(name)))
  if (type) headers.set('Content-Type', type)
  return headers
}

/** The body and Content-Encoding of an upstream's error. What cannot be decoded is passed on as it is. */
async function upstreamBody(bytes, encoding) {
  try {
    return { content: await decodeAll(bytes, encoding), coding: null }
  } catch {
    return { content: bytes, coding: encoding }
  }
}

/**
 * The answer to a create that made no stream: the upstream's error, or a refusal by the proxy or something before it.
 * Throws a Transient if the create should be sent again and this was not the last attempt.
 */
export async function refusal(response, isLast) {
  const { headers } = response
  const status = headers.get('Upstream-Status') ?? ''
  const isUpstreams = response.status === 502 && /^[45]\d\d$/.test(status)
  const bytes = await errorBody(response)
  const error = isUpstreams ? null : parseError(new TextDecoder().decode(bytes))
  if (error) {
    const transient = transientCreate(response, error.code)
    if (transient && !isLast) throw transient
    ensureRefusal(response)
  }
  const { content, coding } = await upstreamBody(bytes, isUpstreams ? headers.get('Upstream-Content-Encoding') : null)
  const type = headers.get('Upstream-Content-Type') ?? headers.get('Content-Type')
  const init = { status: isUpstreams ? Number(status) : response.status, headers: answerHeaders(headers, type) }
  if (coding) init.headers.set('Content-Encoding', coding)
  return Object.assign(new Response(content, init), {
    streamId: null,
    streamUrl: null,
    offset: null,
    upstreamContentType: type,
    wasResumed: false,
    outcome: null,
    proxyError: error,
    abort: async () => {},
  })
}
