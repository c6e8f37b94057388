/** What something between the client and the proxy may answer: nothing of it is believed, nothing paid is forgotten. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { failureOf, TRANSIENT_STATUSES } from '../../../proxy/static/answers.js'
import { createAbortFn, createStorageKey, loadCredentials, saveCredentials } from '../../../proxy/static/client.js'
import { drop, FakeProxy, FakeStream, intercept, readAll, refuse } from '../kit/fake-proxy.js'
import { perTest, post, UPSTREAM } from '../kit/harness.js'

const t = perTest()
const event = (name, data) => `event: ${name}\ndata:${data}\n\n`

/** A fault: the head of a live read of the proxy's, and `text` as its whole body. */
const events =
  (text, headers = { 'Stream-SSE-Data-Encoding': 'base64' }) =>
  (_, response) =>
    response.writeHead(200, { 'Content-Type': 'text/event-stream', ...headers }).end(text)

/** A fault: an answer in JSON. */
const json = (status, value) => (_, response) =>
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value))

const FOREIGN = [
  ['a login page', intercept(200)],
  ['an empty page', intercept(204)],
  ['an empty offset', intercept(200, { 'Stream-Next-Offset': '' })],
  ['an event stream of its own', events(event('data', 'aGVsbG8='), {})],
  ['a page not found', intercept(404)],
  ['a page that is gone', intercept(410)],
  ['a block page', intercept(403)],
  ['a login prompt', intercept(401)],
  ['a captive portal', intercept(511)],
  ['JSON of another shape', json(404, { error: 'not found' })],
  ['JSON whose code is a number', json(404, { error: { code: 404, message: 'x' } })],
  ['JSON without a message', json(404, { error: { code: 'STREAM_NOT_FOUND' } })],
]

for (const [name, fault] of FOREIGN)
  test(`a read that meets ${name} is made again, and no byte of it is delivered`, async () => {
    for (const live of ['sse', 'long-poll']) {
      t.proxy.next('GET', fault, fault)
      const response = await t.fetch({ live })(UPSTREAM, post({ requestId: 'r' }))
      assert.equal(await response.text(), 'hello world', live)
    }
  })

for (const [name, fault] of FOREIGN)
  test(`a resume that meets only ${name} keeps the credentials and calls no upstream`, async () => {
    const fetch = t.fetch()
    const { streamId } = await fetch(UPSTREAM, post({ requestId: 'r' }))
    t.proxy.between = (seen, response, serve) => (seen.method === 'GET' ? fault(seen, response) : serve())
    await assert.rejects(fetch.resume('r'), TypeError)
    await assert.rejects(fetch(UPSTREAM, post({ requestId: 'r' })), TypeError)
    assert.equal(fetch.stored('r').streamId, streamId)
    t.proxy.between = null
    assert.equal(await (await fetch(UPSTREAM, post({ requestId: 'r' }))).text(), 'hello world')
    assert.equal(t.proxy.count('POST'), 1)
  })

test('an error of the proxy that does not say that the stream is gone keeps the credentials', async () => {
  for (const [status, code] of [
    [404, 'NOT_FOUND'],
    [401, 'INVALID_SECRET'],
    [405, 'METHOD_NOT_ALLOWED'],
    [400, 'INVALID_REQUEST'],
  ]) {
    const fetch = t.fetch()
    const response = await fetch(UPSTREAM, post({ requestId: code }))
    t.proxy.between = (seen, ...rest) => refuse(status, code)(seen, ...rest)
    await assert.rejects(response.text(), { name: 'ProxyError', code })
    await assert.rejects(fetch.resume(code), { name: 'ProxyError', code })
    assert.ok(fetch.stored(code), code)
    t.proxy.between = null
    assert.equal(await (await fetch.resume(code)).text(), 'hello world')
  }
})

test('events that the proxy would not send are not believed', async () => {
  const control = (fields) => event('control', JSON.stringify(fields))
  for (const text of [
    event('data', '!!!'),
    event('control', '<html>'),
    event('control', 'null'),
    control({ streamClosed: true, upstreamOutcome: 'complete' }),
    control({ streamNextOffset: 7, streamClosed: true }),
    control({ streamNextOffset: '', streamClosed: true }),
  ]) {
    t.proxy.next('GET', events(text))
    assert.equal(await (await t.fetch()(UPSTREAM, post())).text(), 'hello world', text)
  }
})

test('a closing event that does not say how the stream ended is not an end: the head of a plain read says it', async () => {
  const closing = event('control', JSON.stringify({ streamNextOffset: '-1', streamClosed: true }))
  t.proxy.makeStream = () => new FakeStream().close('truncated')
  t.proxy.next('GET', events(closing))
  const response = await t.fetch()(UPSTREAM, post())
  await assert.rejects(response.text(), { name: 'IncompleteStreamError', outcome: 'truncated' })
  assert.equal(t.proxy.requests.at(-1).query.get('live'), null)
})

test('a create that something between answers is sent again under the same Idempotency-Key', async () => {
  for (const status of [200, ...TRANSIENT_STATUSES]) {
    const before = t.proxy.count('POST')
    t.proxy.next('POST', intercept(status))
    const response = await t.fetch()(UPSTREAM, post())
    assert.equal(await response.text(), 'hello world')
    const keys = t.proxy.requests.filter(({ method }) => method === 'POST').slice(before)
    assert.equal(keys.length, 2, `status ${status}`)
    assert.equal(new Set(keys.map(({ headers }) => headers['idempotency-key'])).size, 1)
  }
})

test('a create that the proxy has not begun is sent again; one that may have called the upstream is not', async () => {
  for (const [status, code, posts] of [
    [503, 'DRAINING', 2],
    [503, 'OVERLOADED', 2],
    [408, 'REQUEST_TIMEOUT', 2],
    [502, 'UPSTREAM_ERROR', 1],
    [502, 'STORAGE_ERROR', 1],
    [504, 'UPSTREAM_TIMEOUT', 1],
    [500, 'INTERNAL_ERROR', 1],
    [409, 'IDEMPOTENCY_CONFLICT', 1],
  ]) {
    const before = t.proxy.count('POST')
    t.proxy.next('POST', refuse(status, code))
    const response = await t.fetch()(UPSTREAM, post())
    assert.deepEqual([response.status, response.proxyError?.code], posts === 2 ? [200, undefined] : [status, code])
    assert.equal(t.proxy.count('POST') - before, posts, code)
  }
})

test('a create that is refused to the last attempt is answered with the refusal', async () => {
  t.proxy.next('POST', ...Array(3).fill(refuse(503, 'DRAINING')), ...Array(3).fill(intercept(522)))
  const [first, second] = [await t.fetch()(UPSTREAM, post()), await t.fetch()(UPSTREAM, post())]
  assert.deepEqual([first.status, first.proxyError.code], [503, 'DRAINING'])
  assert.deepEqual([second.status, second.proxyError.code, second.streamId], [522, null, null])
  assert.equal(await second.text(), '<h1>Please log in</h1>')
})

const keys = () =>
  t.proxy.requests.filter(({ method }) => method === 'POST').map(({ headers }) => headers['idempotency-key'])

test('a request that got no answer is made again under the same key, in another page too', async () => {
  const ask = (more) => t.fetch()(UPSTREAM, post({ requestId: 'r', ...more }))
  for (const fault of [drop, intercept(522), intercept(403), intercept(200), refuse(503, 'DRAINING')]) {
    t.proxy.requests.length = 0
    t.proxy.between = fault
    await ask().catch(() => {})
    t.proxy.between = null
    const response = await ask()
    assert.ok(keys().length >= 2)
    assert.equal(new Set(keys()).size, 1)
    await response.text()
    assert.equal(t.storage.length, 0)
  }
})

test('an answer of the upstream, or another question, ends the life of a key', async () => {
  const ask = async (more) => (await t.fetch()(UPSTREAM, post({ requestId: 'r', ...more }))).text()
  t.proxy.next('POST', (_, response) => response.writeHead(502, { 'Upstream-Status': '429' }).end())
  await ask()
  await ask()
  await ask()
  t.proxy.next('POST', drop, drop, drop)
  await assert.rejects(ask())
  await ask({ body: 'another question' })
  const sent = keys()
  assert.equal(new Set(sent).size, 5, 'only the three lost attempts share one')
})

test('a stream whose URL is not valid any more is asked for under its key, which costs nothing if it is still there', async () => {
  const ask = () => t.fetch()(UPSTREAM, post({ requestId: 'r' }))
  await ask()
  t.proxy.next('GET', refuse(401, 'SIGNATURE_EXPIRED'))
  const response = await ask()
  assert.equal(new Set(keys()).size, 1)
  const storageKey = createStorageKey('durable-streams:', t.proxy.url, 'r')
  const credentials = loadCredentials(t.storage, storageKey)
  saveCredentials(t.storage, storageKey, {
    ...credentials,
    streamUrl: response.streamUrl.replace(/expires=\d+/, 'expires=1'),
  })
  await ask()
  assert.deepEqual([keys().length, new Set(keys()).size], [3, 1])
})

test('a key without an answer is forgotten after a day', async (context) => {
  const { now } = Date
  let passed = 0
  context.mock.method(Date, 'now', () => now() + passed)
  t.proxy.next('POST', drop, drop, drop)
  await assert.rejects(t.fetch()(UPSTREAM, post({ requestId: 'r' })))
  passed = 86_400_000
  await t.fetch()(UPSTREAM, post({ requestId: 'r' }))
  assert.equal(new Set(keys()).size, 2)
})

test('a token that is asked for again is fresh at each attempt', async () => {
  let count = 0
  t.proxy.next('POST', drop, intercept(502))
  await t.fetch({ proxyAuthorization: () => `jwt-${++count}` })(UPSTREAM, post())
  const sent = t.proxy.requests.map(({ headers }) => headers.authorization)
  assert.deepEqual(sent, ['Bearer jwt-1', 'Bearer jwt-2', 'Bearer jwt-3'])
})

test('a read waits out every status of the list', async () => {
  for (const status of TRANSIENT_STATUSES) {
    t.proxy.next('GET', refuse(status, 'ANY_CODE'), intercept(status))
    assert.equal(await (await t.fetch()(UPSTREAM, post())).text(), 'hello world', `status ${status}`)
  }
})

test('Retry-After is seconds or a date, by the clock of the server that sent it', async () => {
  const waitOf = async (headers) => (await failureOf(new Response('', { status: 503, headers }))).retryAfter
  const date = 'Wed, 21 Oct 2026 07:28:00 GMT'
  assert.equal(await waitOf({ 'Retry-After': '7' }), 7_000)
  assert.equal(await waitOf({ 'Retry-After': 'Wed, 21 Oct 2026 07:28:09 GMT', Date: date }), 9_000)
  assert.equal(await waitOf({ 'Retry-After': date, Date: 'Wed, 21 Oct 2026 07:28:09 GMT' }), 0)
  const soon = await waitOf({ 'Retry-After': new Date(Date.now() + 60_000).toUTCString() })
  assert.ok(soon > 50_000 && soon <= 60_000)
  for (const value of ['', '-1', 'soon', 'Infinity', 'NaN'])
    assert.equal(await waitOf({ 'Retry-After': value }), 0, value)
})

test('a stop that something between answers has not arrived: it is sent again', async () => {
  const stream = t.proxy.add(new FakeStream().append('part'))
  t.proxy.next('PATCH', intercept(200), intercept(404), intercept(403), intercept(520), refuse(429, 'ANY_CODE'))
  await createAbortFn(`${t.proxy.origin}${stream.url}`, undefined, { baseDelay: 1, maxDelay: 2 })()
  assert.equal(stream.outcome, 'aborted')
  assert.equal(t.proxy.count('PATCH'), 6)
})

test('a stop that is never answered is sent again', async () => {
  const stream = t.proxy.add(new FakeStream().append('part'))
  t.proxy.next('PATCH', () => {})
  await createAbortFn(`${t.proxy.origin}${stream.url}`, undefined, { baseDelay: 1, headTimeout: 100 })()
  assert.equal(stream.outcome, 'aborted')
})

test('a stop by request id that comes too late forgets the stream and says so', async () => {
  const fetch = t.fetch()
  await fetch(UPSTREAM, post({ requestId: 'r' }))
  t.proxy.next('PATCH', refuse(401, 'SIGNATURE_EXPIRED'))
  await assert.rejects(fetch.abort('r'), { code: 'SIGNATURE_EXPIRED' })
  assert.equal(fetch.stored('r'), null)
})

test('no request follows a redirect to another server', async () => {
  const other = await FakeProxy.start()
  try {
    const redirect = ({ url }, response) => response.writeHead(307, { Location: other.origin + url }).end()
    t.proxy.between = redirect
    const headers = { Authorization: 'Bearer sk-1' }
    const isNetworkError = (error) => error instanceof TypeError && /^network error/.test(error.message)
    await assert.rejects(t.fetch()(UPSTREAM, post({ headers })), isNetworkError)
    t.proxy.between = null
    const fetch = t.fetch({ retry: { baseDelay: 1, maxDelay: 1, attempts: 2 } })
    const response = await fetch(UPSTREAM, post({ requestId: 'r' }))
    t.proxy.between = redirect
    await assert.rejects(response.text(), isNetworkError)
    await assert.rejects(fetch.resume('r'), isNetworkError)
    await assert.rejects(fetch.abort('r'), isNetworkError)
    assert.equal(other.requests.length, 0)
    assert.ok(fetch.stored('r'))
  } finally {
    await other.stop()
  }
})

test('no request to the proxy carries the cookies of a page', async () => {
  const seen = []
  const fetch = (url, init) => {
    seen.push(init.credentials)
    return globalThis.fetch(url, init)
  }
  const durableFetch = t.fetch({ fetch })
  const response = await durableFetch(UPSTREAM, post({ credentials: 'include', requestId: 'r' }))
  await readAll(response)
  await durableFetch(new Request(UPSTREAM, { credentials: 'include' }))
  await response.abort()
  assert.deepEqual(seen, Array(4).fill(undefined))
})
