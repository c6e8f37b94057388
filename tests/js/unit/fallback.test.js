/** Where something between the client and the proxy holds server-sent events back or cuts them, long-polls go on. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cut, drop, FakeStream, hang, refuse } from '../kit/fake-proxy.js'
import { perTest, post, UPSTREAM } from '../kit/harness.js'

const t = perTest()
const QUICK = { baseDelay: 1, maxDelay: 2, headTimeout: 60, stallTimeout: 5_000 }
const modes = () => t.proxy.requests.filter(({ method }) => method === 'GET').map(({ query }) => query.get('live'))

/** Every live read by SSE meets `fault`. */
function againstEvents(fault) {
  t.proxy.between = (seen, response, serve) =>
    seen.query.get('live') === 'sse' ? fault(seen, response, serve) : serve()
}

/** A fault: the head passes, and no byte after it. */
const mute = (_, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Stream-SSE-Data-Encoding': 'base64' })
  response.flushHeaders()
}

for (const [name, fault] of [
  ['cut before the first byte', drop],
  ['cut inside every event', cut(20)],
  ['held back with its head', hang],
  ['held back behind its head', mute],
])
  test(`an answer whose SSE is ${name} is read by long-poll after three reads`, async () => {
    againstEvents(fault)
    const stream = t.proxy.add(new FakeStream().append('one '))
    t.proxy.makeStream = () => stream
    const reader = (await t.fetch({ retry: QUICK })(UPSTREAM, post())).body.getReader()
    assert.equal(Buffer.from((await reader.read()).value).toString(), 'one ')
    stream.append('two').close()
    assert.equal(Buffer.from((await reader.read()).value).toString(), 'two')
    assert.equal((await reader.read()).done, true)
    assert.deepEqual(modes(), ['sse', 'sse', 'sse', 'long-poll', 'long-poll'])
  })

test('a resumed answer needs no SSE to begin', async () => {
  const fetch = t.fetch({ retry: QUICK })
  await fetch(UPSTREAM, post({ requestId: 'r' }))
  againstEvents(hang)
  assert.equal(await (await fetch.resume('r')).text(), 'hello world')
  assert.deepEqual(modes(), ['sse', null])
})

test('a read whose events stop is followed by a long-poll at once, because no keep-alive came either', async () => {
  const stream = t.proxy.add(new FakeStream().append('one '))
  t.proxy.makeStream = () => stream
  againstEvents((_, response) => {
    mute(_, response)
    response.write(`event: data\ndata:${Buffer.from('one ').toString('base64')}\n\n`)
  })
  const reader = (await t.fetch({ retry: { ...QUICK, stallTimeout: 60 } })(UPSTREAM, post())).body.getReader()
  await reader.read()
  const next = reader.read()
  await t.proxy.arrived('GET', 2)
  stream.append('two').close()
  assert.equal(Buffer.from((await next).value).toString(), 'two')
  assert.equal(modes()[1], 'long-poll')
})

test('storage that refuses live=sse is read by long-poll', async () => {
  againstEvents(refuse(400, 'INVALID_REQUEST'))
  assert.equal(await (await t.fetch({ retry: QUICK })(UPSTREAM, post())).text(), 'hello world')
  assert.deepEqual(modes(), ['sse', 'long-poll'])
})

test('where long-polls do no better, SSE is tried again', async () => {
  t.proxy.next('GET', ...Array(6).fill(drop))
  assert.equal(await (await t.fetch({ retry: QUICK })(UPSTREAM, post())).text(), 'hello world')
  assert.deepEqual(modes(), ['sse', 'sse', 'sse', 'long-poll', 'long-poll', 'long-poll', 'sse'])
})

test('SSE that is cut but brings new bytes each time stays SSE', async () => {
  t.proxy.makeStream = () => new FakeStream().append('a', 'b', 'c', 'd', 'e').close()
  t.proxy.next('GET', cut(100), cut(100), cut(100), cut(100))
  assert.equal(await (await t.fetch({ retry: QUICK })(UPSTREAM, post())).text(), 'abcde')
  assert.deepEqual(modes(), Array(5).fill('sse'))
})

test('a stream that says that it has nothing new is waited for, however often the connection is cut', async () => {
  const stream = t.proxy.add(new FakeStream())
  t.proxy.makeStream = () => stream
  const cutAfterControl = (_, response) => {
    mute(_, response)
    response.write('event: control\ndata:{"streamNextOffset":"-1","upToDate":true}\n\n', () => response.destroy())
  }
  let reads = 0
  t.proxy.between = (seen, response, serve) => {
    if (seen.method !== 'GET') return serve()
    if (++reads === 30) stream.append('late').close()
    if (reads >= 30) return serve()
    return seen.query.get('live') === 'sse' ? cutAfterControl(seen, response) : drop(seen, response)
  }
  assert.equal(await (await t.fetch({ retry: QUICK })(UPSTREAM, post())).text(), 'late')
})

test('a caller that chose long-poll gets no SSE', async () => {
  t.proxy.next('GET', ...Array(4).fill(drop))
  assert.equal(await (await t.fetch({ retry: QUICK, live: 'long-poll' })(UPSTREAM, post())).text(), 'hello world')
  assert.deepEqual(modes(), Array(5).fill('long-poll'))
})
