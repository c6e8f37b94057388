/** What reaches the proxy, and what comes back of its answer. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deflateSync, gzipSync } from 'node:zlib'
import { after, drop, FakeStream, hang, intercept, readAll, refuse } from '../kit/fake-proxy.js'
import { perTest, post, UPSTREAM } from '../kit/harness.js'
import { gate, settled, until } from '../kit/waiting.js'

const t = perTest()

test('the request is relabelled: upstream URL, method and authorization in headers, the secret as the bearer', async () => {
  await t.fetch({ proxyAuthorization: 'service-secret' })(UPSTREAM, {
    method: 'put',
    headers: { Authorization: 'Bearer sk-1', 'X-Custom': 'kept' },
    body: 'question',
  })
  const [{ method, headers, url, body }] = t.proxy.requests
  assert.equal(method, 'POST')
  assert.equal(headers['upstream-url'], UPSTREAM)
  assert.equal(headers['upstream-method'], 'PUT')
  assert.equal(headers['upstream-authorization'], 'Bearer sk-1')
  assert.equal(headers.authorization, 'Bearer service-secret')
  assert.equal(headers['x-custom'], 'kept')
  assert.equal(body.toString(), 'question')
  assert.equal(url, '/v1/proxy', 'no secret in the query string')
})

test('headers given as a Headers object or as pairs all arrive', async () => {
  const fetch = t.fetch()
  await fetch(UPSTREAM, post({ headers: new Headers({ Authorization: 'Bearer sk-1', 'X-A': '1' }) }))
  await fetch(
    UPSTREAM,
    post({
      headers: [
        ['authorization', 'Bearer sk-2'],
        ['x-a', '2'],
      ],
    }),
  )
  const sent = t.proxy.requests.map(({ headers }) => [
    headers['upstream-authorization'],
    headers['x-a'],
    headers.authorization,
  ])
  assert.deepEqual(sent, [
    ['Bearer sk-1', '1', undefined],
    ['Bearer sk-2', '2', undefined],
  ])
})

test('a Request object is taken whole, and init wins over it', async () => {
  const request = new Request(UPSTREAM, { method: 'PATCH', body: 'from request', headers: { 'X-A': '1' } })
  await t.fetch()(request)
  await t.fetch()(new Request(UPSTREAM, { method: 'PATCH' }), { method: 'POST', body: 'from init' })
  const [first, second] = t.proxy.requests
  assert.deepEqual(
    [first.headers['upstream-method'], first.headers['x-a'], first.body.toString()],
    ['PATCH', '1', 'from request'],
  )
  assert.deepEqual([second.headers['upstream-method'], second.body.toString()], ['POST', 'from init'])
})

test('every kind of body arrives with its content type', async () => {
  const form = new FormData()
  form.set('field', 'value')
  const bodies = [
    ['text', /^text\/plain/, 'text'],
    [new URLSearchParams({ a: '1' }), /^application\/x-www-form-urlencoded/, 'a=1'],
    [new Uint8Array([104, 105]), undefined, 'hi'],
    [new Blob(['blob'], { type: 'image/png' }), /^image\/png/, 'blob'],
    [new Blob(['streamed']).stream(), undefined, 'streamed'],
    [form, /^multipart\/form-data; boundary=/, /name="field"\r\n\r\nvalue/],
  ]
  for (const [body, type, text] of bodies) {
    await t.fetch()(UPSTREAM, { method: 'POST', body, duplex: 'half' })
    const seen = t.proxy.requests.at(-1)
    if (type) assert.match(seen.headers['content-type'], type)
    else assert.equal(seen.headers['content-type'], undefined)
    assert.match(seen.body.toString(), text instanceof RegExp ? text : new RegExp(`^${text}$`))
  }
})

test('a request without a body is sent without one, as fetch does: GET by default', async () => {
  await t.fetch()(`${UPSTREAM}?q=1#fragment`)
  const [{ headers, body }] = t.proxy.requests
  assert.deepEqual([headers['upstream-method'], headers['upstream-url'], body.length], ['GET', `${UPSTREAM}?q=1`, 0])
})

test('proxyAuthorization may be an async function, called for each request', async () => {
  let count = 0
  const fetch = t.fetch({ proxyAuthorization: async () => `jwt-${++count}` })
  await fetch(UPSTREAM, post())
  await fetch(UPSTREAM, post())
  assert.deepEqual(
    t.proxy.requests.map(({ headers }) => headers.authorization),
    ['Bearer jwt-1', 'Bearer jwt-2'],
  )
})

test('the answer carries status, content type and the headers that passed, and no header of the proxy itself', async () => {
  const response = await t.fetch()(UPSTREAM, post())
  assert.equal(response.status, 200)
  assert.equal(response.ok, true)
  assert.equal(response.headers.get('Content-Type'), 'application/octet-stream')
  assert.equal(response.upstreamContentType, 'application/octet-stream')
  assert.equal(response.headers.get('X-Request-Id'), 'up-1')
  assert.equal(response.headers.get('Location'), null)
  assert.equal(response.wasResumed, false)
  assert.equal(response.outcome, null)
  const [stream] = t.proxy.streams.values()
  assert.equal(response.streamId, stream.id)
  assert.equal(response.streamUrl, `${t.proxy.origin}${stream.url}`)
  assert.equal(await response.text(), 'hello world')
  assert.equal(response.outcome, 'complete')
})

test("upstream's own status and body come through a 502 that names them", async () => {
  t.proxy.next('POST', (_, response) => {
    response.writeHead(502, {
      'Upstream-Status': '429',
      'Upstream-Content-Type': 'application/json',
      'Content-Type': 'application/json',
      'Retry-After': '7',
    })
    response.end('{"error":"slow down"}')
  })
  const response = await t.fetch()(UPSTREAM, post())
  assert.equal(response.status, 429)
  assert.equal(response.headers.get('Retry-After'), '7')
  assert.deepEqual(await response.json(), { error: 'slow down' })
  assert.equal(response.proxyError, null)
  assert.equal(response.streamId, null)
})

test('a 502 without Upstream-Status, or with nonsense in it, stays a 502 of the proxy’s own', async () => {
  for (const headers of [{}, { 'Upstream-Status': 'NaN' }, { 'Upstream-Status': '' }, { 'Upstream-Status': '99999' }]) {
    t.proxy.next('POST', refuse(502, 'UPSTREAM_ERROR', headers))
    const response = await t.fetch()(UPSTREAM, post())
    assert.equal(response.status, 502)
    assert.deepEqual(response.proxyError, { code: 'UPSTREAM_ERROR', message: 'it is UPSTREAM_ERROR' })
    assert.equal((await response.json()).error.code, 'UPSTREAM_ERROR')
  }
})

test('errors of the proxy come as responses, even where the body is not JSON', async () => {
  t.proxy.next('POST', refuse(403, 'UPSTREAM_NOT_ALLOWED'))
  t.proxy.next('POST', ...Array(3).fill((_, response) => response.writeHead(503).end('upstream connect error')))
  const fetch = t.fetch()
  const [first, second] = [await fetch(UPSTREAM, post()), await fetch(UPSTREAM, post())]
  assert.deepEqual([first.status, first.proxyError.code], [403, 'UPSTREAM_NOT_ALLOWED'])
  assert.deepEqual([second.status, second.proxyError.code, await second.text()], [503, null, 'upstream connect error'])
})

test('a lost 201 is asked for again under the same Idempotency-Key, and a 200 replay is taken', async () => {
  t.proxy.next('POST', drop, (_, response) =>
    response.writeHead(200, { Location: stream.url, 'Idempotent-Replay': 'true' }).end(),
  )
  const stream = t.proxy.add(new FakeStream().append('answer').close())
  const response = await t.fetch()(UPSTREAM, post())
  assert.equal(await response.text(), 'answer')
  const keys = t.proxy.requests
    .filter(({ method }) => method === 'POST')
    .map(({ headers }) => headers['idempotency-key'])
  assert.equal(keys.length, 2)
  assert.match(keys[0], /^[0-9a-f]{32}$/)
  assert.equal(keys[0], keys[1])
})

test('two requests have two Idempotency-Keys, and a key of the caller’s own is kept', async () => {
  const fetch = t.fetch()
  await fetch(UPSTREAM, post())
  await fetch(UPSTREAM, post())
  await fetch(UPSTREAM, post({ headers: { 'Idempotency-Key': 'mine' } }))
  const [first, second, third] = t.proxy.requests.map(({ headers }) => headers['idempotency-key'])
  assert.notEqual(first, second)
  assert.equal(third, 'mine')
})

test('a proxy that is down is a TypeError of the network, soon', async () => {
  t.proxy.next('POST', drop, drop, drop)
  await assert.rejects(
    t.fetch()(UPSTREAM, post()),
    (error) => error instanceof TypeError && /^network error: /.test(error.message),
  )
  assert.equal(t.proxy.count('POST'), 3)
})

test('a signal that fires before the 201 ends the request', async () => {
  t.proxy.next('POST', hang)
  const controller = new AbortController()
  const response = t.fetch()(UPSTREAM, post({ signal: controller.signal }))
  const request = await t.proxy.arrived('POST')
  controller.abort()
  await assert.rejects(response, { name: 'AbortError' })
  await until(() => request.gone)
})

test('a compressed answer is unpacked', async () => {
  t.proxy.makeStream = () => new FakeStream({ encoding: 'gzip' }).append(gzipSync('unpacked')).close()
  assert.equal(await (await t.fetch()(UPSTREAM, post())).text(), 'unpacked')
})

test('every coding is undone, in the reverse of the order in which they were applied', async () => {
  for (const [encoding, pack] of [
    ['GZIP', gzipSync],
    ['x-gzip', gzipSync],
    ['deflate', deflateSync],
    ['gzip, deflate', (text) => deflateSync(gzipSync(text))],
    ['identity', Buffer.from],
  ]) {
    t.proxy.makeStream = () => new FakeStream({ encoding }).append(pack('unpacked')).close()
    assert.equal(await (await t.fetch()(UPSTREAM, post())).text(), 'unpacked', encoding)
  }
})

test('a coding that cannot be undone here fails the body with its name, and the stream is kept', async () => {
  t.proxy.makeStream = () => new FakeStream({ encoding: 'x-unknown' }).append('?').close()
  const fetch = t.fetch()
  const response = await fetch(UPSTREAM, post({ requestId: 'r' }))
  await assert.rejects(response.text(), { name: 'NotSupportedError', message: /x-unknown/ })
  assert.ok(fetch.stored('r'))
})

test("an upstream's error is decoded; what cannot be decoded comes as it is and says so", async () => {
  const answer = (encoding, body) => (_, response) =>
    response.writeHead(502, { 'Upstream-Status': '429', 'Upstream-Content-Encoding': encoding }).end(body)
  t.proxy.next('POST', answer('gzip', gzipSync('{"error":"slow down"}')))
  const response = await t.fetch()(UPSTREAM, post())
  assert.deepEqual([response.status, response.headers.get('Content-Encoding')], [429, null])
  assert.deepEqual(await response.json(), { error: 'slow down' })
  for (const encoding of ['x-unknown', 'gzip']) {
    t.proxy.next('POST', answer(encoding, 'not gzip'))
    const undecoded = await t.fetch()(UPSTREAM, post())
    assert.equal(undecoded.headers.get('Content-Encoding'), encoding)
    assert.equal(await undecoded.text(), 'not gzip')
  }
})

test('an answer without content has no body and leaves nothing stored', async () => {
  const stream = t.proxy.add(new FakeStream().close())
  t.proxy.next('POST', (_, response) =>
    response.writeHead(201, { Location: stream.url, 'Upstream-Status': '204' }).end(),
  )
  const response = await t.fetch()(UPSTREAM, post({ requestId: 'r' }))
  assert.deepEqual([response.status, response.body, response.outcome, t.storage.length], [204, null, 'complete', 0])
})

test('an absolute Location is followed, on whatever host it is', async () => {
  const stream = t.proxy.add(new FakeStream().append('elsewhere').close())
  const absolute = `http://localhost:${new URL(t.proxy.origin).port}${stream.url}`
  t.proxy.next('POST', (_, response) => response.writeHead(201, { Location: absolute }).end())
  const response = await t.fetch()(UPSTREAM, post())
  assert.equal(response.streamUrl, absolute)
})

test('something that always answers 200 is not a proxy, and the error says so', async () => {
  t.proxy.next('POST', ...Array(3).fill(intercept(200)))
  await assert.rejects(t.fetch()(UPSTREAM, post()), { name: 'ProxyError', message: /names no stream/ })
})

test('nothing of the answer is asked for before somebody reads it', async () => {
  const waiting = gate()
  t.proxy.next('GET', after(waiting))
  const response = await t.fetch()(UPSTREAM, post())
  await settled()
  assert.equal(t.proxy.count('GET'), 0)
  waiting.open()
  assert.equal((await readAll(response)).toString(), 'hello world')
})
