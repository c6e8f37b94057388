// The public conformance suite with its reads sent through the proxy; tests/store/test_reads_through_proxy.py runs this.
//
// The suite speaks to one server. Here its `fetch` sends what writes (PUT, POST, DELETE) to storage itself and what
// reads (GET, HEAD, OPTIONS) to the proxy in front of it. A request gets another address, and a credential where it
// needs one; a response comes back untouched.
import { readFileSync } from 'node:fs'
import { runConformanceTests } from '@durable-streams/server-conformance-tests'

const { proxy, storage, longPollMs, record, contentType, presigned } = JSON.parse(
  readFileSync(process.env.PLAN, 'utf8'),
)
const authorization = `Bearer ${process.env.SERVICE_SECRET}`
const send = globalThis.fetch
const streams = new Map()

/** What stands for a path of the suite's: a stream's id, and the query of its pre-signed URL. */
function streamAt(path) {
  if (!streams.has(path)) {
    if (streams.size === presigned.length) throw new Error('more streams than pre-signed URLs')
    const [id, signature] = presigned[streams.size]
    streams.set(path, { id, signature })
  }
  return streams.get(path)
}

function withHeader(init, name, value) {
  const headers = new Headers(init.headers)
  headers.set(name, value)
  return { ...init, headers }
}

async function write(stream, init) {
  const source = new Headers(init.headers).get('Stream-Forked-From')
  if (source !== null) {
    init = withHeader(init, 'Stream-Forked-From', new URL(streamAt(source).id, storage).pathname)
  }
  const answer = await send(`${storage}${stream.id}`, init)
  if (init.method === 'PUT' && answer.status === 201) {
    // What the proxy keeps beside every stream that it creates.
    const headers = { 'Content-Type': 'application/json', 'Stream-TTL': '3600' }
    const kept = await send(`${storage}${stream.id}.record`, { method: 'PUT', headers, body: record })
    if (!kept.ok) throw new Error(`storage answered ${kept.status} to the record of ${stream.id}`)
  }
  return answer
}

async function read(stream, query, init) {
  const address = `${proxy}/v1/proxy/${stream.id}`
  const answer =
    init.method === 'HEAD'
      ? await send(query ? `${address}?${query}` : address, withHeader(init, 'Authorization', authorization))
      : await send(`${address}?${query ? `${query}&` : ''}${stream.signature}`, init)
  if (answer.status < 400) checkRead(answer)
  return answer
}

/** Nobody but the proxy says this: a read that went elsewhere, or missed the record, fails its case. */
function checkRead({ headers }) {
  const type = headers.get('Upstream-Content-Type')
  if (type !== contentType) throw new Error(`Upstream-Content-Type is ${type}`)
  const outcome = headers.get('Upstream-Outcome')
  const expected = headers.get('Stream-Closed') === 'true' ? 'complete' : null
  if (outcome !== expected) throw new Error(`Upstream-Outcome is ${outcome}, not ${expected}`)
}

globalThis.fetch = async (input, init = {}) => {
  const url = String(input)
  if (!url.startsWith(`${proxy}/`)) throw new Error(`${url} is not the server under test`)
  const [, path, query] = /^([^?]*)\??(.*)$/.exec(url.slice(proxy.length))
  const stream = streamAt(path)
  switch (init.method ?? 'GET') {
    case 'GET':
    case 'HEAD':
      return read(stream, query, init)
    case 'OPTIONS':
      return send(`${proxy}/v1/proxy/${stream.id}`, init)
    default:
      return write(stream, init)
  }
}

runConformanceTests({ baseUrl: proxy, longPollTimeoutMs: longPollMs })
