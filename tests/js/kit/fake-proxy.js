/**
 * A scripted proxy for the client's unit tests: speaks the wire of the real one from memory, and injects faults
 * (cuts at any byte, refusals, silence) where a test says so. Offsets are opaque, and exist only between appends.
 */

import { randomUUID } from 'node:crypto'
import { HttpPeer } from './http-peer.js'

/** A stream in memory: what was appended, whether it is closed, and who waits for more. */
export class FakeStream {
  constructor({ contentType = 'application/octet-stream', encoding } = {}) {
    this.id = randomUUID()
    this.contentType = contentType
    this.encoding = encoding
    this.expires = Math.floor(Date.now() / 1000) + 3600
    this.appends = []
    this.closed = false
    this.outcome = null
    this.waiting = []
    this.tokens = new Map([['-1', 0]])
  }
  get url() {
    return `/v1/proxy/${this.id}?expires=${this.expires}&signature=c2ln`
  }
  /** The token of the place before append `index`: nothing can be read out of it. */
  token(index) {
    const token = index === 0 ? '-1' : `t${(index * 7919) % 10007}_${this.id.slice(0, 4)}`
    this.tokens.set(token, index)
    return token
  }
  append(...parts) {
    this.appends.push(...parts.map((part) => Buffer.from(part)))
    this.wake()
    return this
  }
  close(outcome = 'complete') {
    this.closed = true
    this.outcome ??= outcome
    this.wake()
    return this
  }
  wake() {
    for (const wake of this.waiting.splice(0)) wake()
  }
  /** Resolves at the next change, or when `request` goes. */
  changed(request) {
    return new Promise((resolve) => {
      this.waiting.push(resolve)
      request.once('close', resolve)
    })
  }
}

/** `const proxy = await FakeProxy.start()`; `proxy.url` is what a client is given as proxyUrl. */
export class FakeProxy {
  static async start() {
    const proxy = new FakeProxy()
    proxy.peer = await HttpPeer.start((...args) => proxy.#serve(...args))
    proxy.origin = proxy.peer.url
    proxy.url = `${proxy.origin}/v1/proxy`
    return proxy
  }

  constructor() {
    this.streams = new Map()
    this.requests = [] // {method, url, path, query, headers, body} in the order of arrival
    this.faults = { GET: [], POST: [], PATCH: [] }
    this.watchers = []
    this.between = null // a fault for every request for which no other one is left
    this.longPollMs = 20_000
    this.makeStream = () => new FakeStream().append('hello ', 'world').close()
  }

  /** Meets the next `method` request with `fault`: a function (request, response, serve) or one of the makers below. */
  next(method, ...faults) {
    this.faults[method].push(...faults)
    return this
  }

  count(method) {
    return this.requests.filter((request) => request.method === method).length
  }

  /** Resolves with the `number`th `method` request, as soon as it has arrived. */
  async arrived(method, number = 1) {
    while (this.count(method) < number) await new Promise((resolve) => this.watchers.push(resolve))
    return this.requests.filter((request) => request.method === method)[number - 1]
  }

  add(stream) {
    this.streams.set(stream.id, stream)
    return stream
  }

  stop() {
    return this.peer.stop()
  }

  async #serve(request, response, body) {
    const url = new URL(request.url, this.origin)
    const { method, headers } = request
    const seen = {
      method,
      headers,
      url: request.url,
      path: url.pathname,
      query: url.searchParams,
      body,
    }
    this.requests.push(seen)
    for (const watcher of this.watchers.splice(0)) watcher()
    response.once('close', () => (seen.gone = true))
    const serve = () => this[`_${method}`]?.(seen, response)
    const fault = this.faults[method]?.shift() ?? this.between
    await (fault ? fault(seen, response, serve) : serve())
  }

  _POST(request, response) {
    const stream = this.add(this.makeStream(request))
    const headers = {
      Location: stream.url,
      'Upstream-Content-Type': stream.contentType,
      'Upstream-Status': '200',
      'X-Request-Id': 'up-1',
    }
    if (stream.encoding) headers['Upstream-Content-Encoding'] = stream.encoding
    response.writeHead(201, headers).end()
  }

  _PATCH(request, response) {
    this.streams.get(request.path.split('/')[3])?.close('aborted')
    response.writeHead(204).end()
  }

  async _GET(request, response) {
    const stream = this.streams.get(request.path.split('/')[3])
    if (!stream) return refuse(404, 'STREAM_NOT_FOUND')(request, response)
    const from = stream.tokens.get(request.query.get('offset'))
    if (from === undefined) return refuse(400, 'INVALID_REQUEST')(request, response)
    if (request.query.get('live') === 'sse') return this.#events(stream, from, response)
    if (request.query.get('live') === 'long-poll' && from === stream.appends.length && !stream.closed) {
      const timer = setTimeout(() => stream.wake(), this.longPollMs)
      await stream.changed(response)
      clearTimeout(timer)
    }
    const parts = stream.appends.slice(from)
    const headers = {
      'Content-Type': 'application/octet-stream',
      'Stream-Next-Offset': stream.token(stream.appends.length),
      'Stream-Up-To-Date': 'true',
    }
    if (request.query.get('live')) headers['Stream-Cursor'] = '17'
    if (stream.closed) Object.assign(headers, { 'Stream-Closed': 'true', 'Upstream-Outcome': stream.outcome })
    response.writeHead(parts.length ? 200 : 204, headers)
    for (const part of parts) response.write(part)
    response.end()
  }

  async #events(stream, from, response) {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Stream-SSE-Data-Encoding': 'base64' })
    for (let at = from, control = null; !response.destroyed; ) {
      for (; at < stream.appends.length; at++) {
        response.write(`event: data\ndata:${stream.appends[at].toString('base64')}\n\n`)
        control = null
        if (this.controlEach ?? true)
          response.write(
            `event: control\ndata:${JSON.stringify({ streamNextOffset: stream.token(at + 1), streamCursor: '17' })}\n\n`,
          )
      }
      const end = stream.closed
        ? { streamClosed: true, upstreamOutcome: stream.outcome }
        : { streamCursor: '17', upToDate: true }
      if (control === null || stream.closed)
        response.write(`event: control\ndata:${JSON.stringify({ streamNextOffset: stream.token(at), ...end })}\n\n`)
      control = at
      if (stream.closed) return response.end()
      await stream.changed(response)
    }
  }
}

/** A fault: the proxy's error answer. */
export const refuse =
  (status, code, headers = {}) =>
  (_, response) => {
    response.writeHead(status, { 'Content-Type': 'application/json', ...headers })
    response.end(JSON.stringify({ error: { code, message: `it is ${code}` } }))
  }

/** A fault: something between the client and the proxy answers with a page of its own. */
export const intercept =
  (status, headers = {}) =>
  (_, response) => {
    response.writeHead(status, { 'Content-Type': 'text/html', ...headers })
    response.end(status === 204 ? undefined : '<h1>Please log in</h1>')
  }

/** A fault: the connection is cut without an answer. */
export const drop = (_, response) => response.socket.destroy()

/** A fault: nothing, ever. */
export const hang = () => {}

/** A fault: the ordinary answer, ended within its framing after `bytes` bytes of its body. */
export const cut = (bytes) => async (_, response, serve) => {
  const [write, end] = [response.write.bind(response), response.end.bind(response)]
  let left = bytes
  const finish = () => {
    if (left > 0) return end() // shorter than the cut: whole
    response.flushHeaders()
    response.socket?.end() // a FIN after what was written, without the last chunk
  }
  response.end = finish
  response.write = (data) => {
    const part = Buffer.from(data).subarray(0, left)
    if (part.length) write(part)
    left -= part.length
    if (left === 0) finish()
    return true
  }
  await serve()
}

/** A fault: waits for `gate`, then answers as ever. */
export const after = (gate) => async (_, __, serve) => {
  await gate
  await serve()
}

export async function readAll(response) {
  const parts = []
  for await (const part of response.body) parts.push(Buffer.from(part))
  return Buffer.concat(parts)
}
