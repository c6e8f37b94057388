/** A request as its upstream should see it, and the create request that asks the proxy for it. Internal. */

import { parseError } from './errors.js'

/** Relative URLs are relative to the page, as in fetch. */
export const absolute = (url) => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href)

const hex = (byte) => byte.toString(16).padStart(2, '0')
const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join('')

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

/** The headers of the create request. The same ones are sent again when it is retried. */
export function createHeaders({ url, method, headers }, secret) {
  const sent = new Headers(headers)
  if (headers.has('Authorization')) sent.set('Upstream-Authorization', headers.get('Authorization'))
  sent.delete('Authorization')
  sent.set('Upstream-URL', url)
  sent.set('Upstream-Method', method)
  // The key tells the proxy that a request is repeated, so a lost 201 costs no second call to the upstream.
  if (!headers.has('Idempotency-Key')) sent.set('Idempotency-Key', randomId())
  if (secret) sent.set('Authorization', `Bearer ${secret}`)
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

/** The proxy's answer when it made no stream: the upstream's error, or one of its own. */
export async function refused(response) {
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
