/** The read loop: the answer's bytes, all of them once, whatever happens to the connections. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EventStreamParser } from '../../../proxy/static/client.js'
import { cut, drop, FakeStream, hang, readAll, refuse } from '../kit/fake-proxy.js'
import { perTest, post, UPSTREAM } from '../kit/harness.js'
import { settled, until } from '../kit/waiting.js'

const t = perTest()
const BINARY = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))

test('bytes stay bytes, in both live modes: nothing is base64, nothing is text', async () => {
  for (const live of ['sse', 'long-poll']) {
    t.proxy.makeStream = () => new FakeStream().append(BINARY, 'data: [DONE]\n\n', BINARY).close()
    const response = await t.fetch({ live })(UPSTREAM, post())
    assert.deepEqual(await readAll(response), Buffer.concat([BINARY, Buffer.from('data: [DONE]\n\n'), BINARY]), live)
    assert.equal(t.proxy.requests.at(-1).query.get('live'), live)
  }
})

test('what is appended while reading arrives as it comes, to the end', async () => {
  for (const live of ['sse', 'long-poll']) {
    const stream = t.proxy.add(new FakeStream().append('one '))
    t.proxy.makeStream = () => stream
    const reader = (await t.fetch({ live })(UPSTREAM, post())).body.getReader()
    const read = async () => Buffer.from((await reader.read()).value ?? '').toString()
    assert.equal(await read(), 'one ')
    stream.append('two ')
    assert.equal(await read(), 'two ')
    stream.append('three').close()
    assert.equal(await read(), 'three')
    assert.equal((await reader.read()).done, true)
  }
})

test('a connection cut at any byte loses nothing and doubles nothing', async () => {
  const parts = ['bé', Buffer.from([0, 255, 10, 13])]
  const expected = Buffer.concat(parts.map((part) => Buffer.from(part))).toString('latin1')
  for (const [live, controlEach, length] of [
    ['sse', true, 230],
    ['sse', false, 130],
    ['long-poll', true, 8],
  ]) {
    t.proxy.controlEach = controlEach
    for (let at = 0; at < length; at++) {
      t.proxy.makeStream = () => new FakeStream().append(...parts).close()
      t.proxy.next('GET', cut(at))
      const before = t.proxy.count('GET')
      const response = await t.fetch({ live })(UPSTREAM, post())
      assert.equal((await readAll(response)).toString('latin1'), expected, `${live}, cut at ${at}`)
      assert.equal(response.outcome, 'complete')
      if (at < 7) assert.equal(t.proxy.count('GET'), before + 2, 'it was cut indeed')
    }
  }
})

test('several cuts in one answer, each somewhere else', async () => {
  for (const live of ['sse', 'long-poll']) {
    t.proxy.makeStream = () =>
      new FakeStream().append(...Array.from({ length: 20 }, (_, index) => `piece ${index};`)).close()
    t.proxy.next('GET', cut(33), cut(150), drop, cut(90), refuse(503, 'OVERLOADED'), cut(240), refuse(429, 'X'))
    const text = await (await t.fetch({ live })(UPSTREAM, post())).text()
    assert.equal(text, Array.from({ length: 20 }, (_, index) => `piece ${index};`).join(''), live)
  }
})

test('storage that divides the bytes otherwise the second time makes no difference', async () => {
  const stream = t.proxy.add(new FakeStream())
  t.proxy.makeStream = () => stream.append('abcdef')
  const event = (data) => `event: data\ndata:${Buffer.from(data).toString('base64')}\n\n`
  const control = (offset, more) => `event: control\ndata:${JSON.stringify({ streamNextOffset: offset, ...more })}\n\n`
  const answer = (text) => (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Stream-SSE-Data-Encoding': 'base64' })
    response.end(text)
  }
  t.proxy.next('GET', answer(event('abcdef'))) // no control: where this ends is not known
  t.proxy.next('GET', answer(event('ab') + control('x1') + event('c') + control('x2')))
  t.proxy.next('GET', answer(event('defg') + control('x3', { streamClosed: true, upstreamOutcome: 'complete' })))
  assert.equal(await (await t.fetch()(UPSTREAM, post())).text(), 'abcdefg')
  assert.deepEqual(
    t.proxy.requests.slice(1).map(({ query }) => query.get('offset')),
    ['-1', '-1', 'x2'],
  )
})

test('the cursor that came is sent back', async () => {
  const stream = t.proxy.add(new FakeStream().append('a'))
  t.proxy.makeStream = () => stream
  const reader = (await t.fetch({ live: 'long-poll' })(UPSTREAM, post())).body.getReader()
  await reader.read()
  const next = reader.read()
  await t.proxy.arrived('GET', 2)
  stream.append('b').close()
  await next
  assert.deepEqual(
    t.proxy.requests.slice(1, 3).map(({ query }) => query.get('cursor')),
    [null, '17'],
  )
})

test('the offset is live: it moves with what was read', async () => {
  const stream = t.proxy.add(new FakeStream().append('a'))
  t.proxy.makeStream = () => stream
  const response = await t.fetch()(UPSTREAM, post())
  assert.equal(response.offset, '-1')
  const reader = response.body.getReader()
  await reader.read()
  stream.append('b')
  await reader.read()
  assert.equal(response.offset, stream.token(1), 'the control event after "a" was met before "b"')
  stream.close()
  await reader.read()
  assert.equal(response.offset, stream.token(2))
})

test('an end that is not complete fails the body, after everything that came before it', async () => {
  for (const live of ['sse', 'long-poll'])
    for (const outcome of ['truncated', 'timeout', 'upstream_error', 'storage_error', 'interrupted', 'aborted']) {
      t.proxy.makeStream = () => new FakeStream().append('part').close(outcome)
      const response = await t.fetch({ live })(UPSTREAM, post())
      const reader = response.body.getReader()
      assert.equal(Buffer.from((await reader.read()).value).toString(), 'part')
      await assert.rejects(reader.read(), { name: 'IncompleteStreamError', outcome, bytesRead: 4 })
      assert.equal(response.outcome, outcome)
    }
})

test('a closed stream that names no outcome is complete', async () => {
  t.proxy.next('GET', (_, response) =>
    response.writeHead(200, { 'Stream-Closed': 'true', 'Stream-Next-Offset': 'x' }).end('whole'),
  )
  const response = await t.fetch()(UPSTREAM, post())
  assert.equal(await response.text(), 'whole')
  assert.equal(response.outcome, 'complete')
})

test('retries that are used up end in a TypeError that says network, which chat SDKs know', async () => {
  t.proxy.next('GET', ...Array(4).fill(drop))
  const response = await t.fetch({ retry: { baseDelay: 1, maxDelay: 1, attempts: 4 } })(UPSTREAM, post())
  await assert.rejects(response.text(), (error) => error instanceof TypeError && /network error/.test(error.message))
  assert.equal(t.proxy.count('GET'), 4)
})

test('progress renews the patience', async () => {
  t.proxy.makeStream = () => new FakeStream().append('a', 'b', 'c').close()
  t.proxy.next('GET', drop, cut(100), drop, cut(100), drop)
  const response = await t.fetch({ retry: { baseDelay: 1, maxDelay: 1, attempts: 3 } })(UPSTREAM, post())
  assert.equal(await response.text(), 'abc')
})

for (const onLine of [true, false])
  test(`a machine that slept for a day goes on, its browser ${onLine ? 'online' : 'offline'}`, async (context) => {
    const navigator = Object.getOwnPropertyDescriptor(globalThis, 'navigator')
    context.after(() =>
      navigator ? Object.defineProperty(globalThis, 'navigator', navigator) : delete globalThis.navigator,
    )
    Object.defineProperty(globalThis, 'navigator', { value: { onLine }, configurable: true })
    let slept = 0
    const { now } = Date
    context.mock.method(Date, 'now', () => now() + slept)
    const stream = t.proxy.add(new FakeStream())
    t.proxy.makeStream = () => stream
    const text = (await t.fetch()(UPSTREAM, post())).text()
    await t.proxy.arrived('GET', 1)
    t.proxy.next('GET', (...args) => {
      slept += 86_400_000
      drop(...args)
    })
    slept += 86_400_000
    t.proxy.peer.cut()
    stream.append('whole').close()
    assert.equal(await text, 'whole')
  })

test('a connection without a sign of life is given up for another one', async () => {
  t.proxy.next('GET', hang)
  t.proxy.next('GET', (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' })
    response.flushHeaders()
  })
  const response = await t.fetch({ retry: { baseDelay: 1, headTimeout: 200, stallTimeout: 200 } })(UPSTREAM, post())
  assert.equal(await response.text(), 'hello world')
  assert.ok(t.proxy.count('GET') >= 3)
})

test('an answer that brings nothing at once is not asked for in a busy loop', async () => {
  const empty = (_, response) =>
    response.writeHead(204, { 'Stream-Next-Offset': 'x', 'Stream-Up-To-Date': 'true' }).end()
  const stream = t.proxy.add(new FakeStream())
  stream.tokens.set('x', 0)
  t.proxy.makeStream = () => stream.append('a').close()
  t.proxy.next('GET', ...Array(4).fill(empty))
  const began = performance.now()
  assert.equal(await (await t.fetch({ live: 'long-poll' })(UPSTREAM, post())).text(), 'a')
  assert.ok(performance.now() - began > 100)
})

test('Retry-After is waited for', async () => {
  t.proxy.next('GET', refuse(503, 'OVERLOADED', { 'Retry-After': '0.2' }))
  const response = await t.fetch()(UPSTREAM, post())
  const began = performance.now()
  await response.text()
  assert.ok(performance.now() - began > 190)
})

test('a stream that is gone, or a URL that no longer holds, is an error with its code, without retry', async () => {
  for (const [status, code] of [
    [404, 'STREAM_NOT_FOUND'],
    [401, 'SIGNATURE_EXPIRED'],
  ]) {
    t.proxy.next('GET', refuse(status, code))
    const before = t.proxy.count('GET')
    const response = await t.fetch()(UPSTREAM, post())
    await assert.rejects(response.text(), { name: 'ProxyError', status, code })
    assert.equal(t.proxy.count('GET'), before + 1)
  }
})

test('a signal ends the reading at once, also while nothing is being read, and tells upstream nothing', async () => {
  t.proxy.makeStream = () => new FakeStream().append('a')
  for (const isReading of [true, false]) {
    const controller = new AbortController()
    const reader = (await t.fetch()(UPSTREAM, post({ signal: controller.signal }))).body.getReader()
    await reader.read()
    const pending = isReading ? reader.read() : null
    controller.abort()
    await assert.rejects(pending ?? reader.read(), { name: 'AbortError' })
    const request = t.proxy.requests.at(-1)
    await until(() => request.gone)
  }
  assert.equal(t.proxy.count('PATCH'), 0)
})

test('the reason of a signal is the error', async () => {
  t.proxy.makeStream = () => new FakeStream().append('a')
  const controller = new AbortController()
  const response = await t.fetch()(UPSTREAM, post({ signal: controller.signal }))
  const text = response.text()
  await t.proxy.arrived('GET')
  controller.abort(new RangeError('enough'))
  await assert.rejects(text, RangeError)
})

test('with abortOnSignal a signal stops the upstream too', async () => {
  t.proxy.makeStream = () => new FakeStream().append('a')
  const controller = new AbortController()
  const response = await t.fetch({ abortOnSignal: true })(UPSTREAM, post({ signal: controller.signal, requestId: 'r' }))
  const reader = response.body.getReader()
  await reader.read()
  controller.abort()
  const { url } = await t.proxy.arrived('PATCH')
  assert.match(url, /&action=abort$/)
})

test('cancelling the body ends the reading, rejects nothing and leaves the stream to be resumed', async () => {
  t.proxy.makeStream = () => new FakeStream().append('a')
  for (const reads of [0, 1, 2]) {
    const fetch = t.fetch()
    const response = await fetch(UPSTREAM, post({ requestId: `r${reads}` }))
    const reader = response.body.getReader()
    if (reads > 0) await reader.read()
    const pending = reads > 1 ? reader.read() : null
    await reader.cancel('enough')
    if (pending) assert.equal((await pending).done, true)
    const request = t.proxy.requests.at(-1)
    if (reads) await until(() => request.gone)
    assert.ok(fetch.stored(`r${reads}`))
  }
  await settled() // an unhandled rejection would fail this file
  assert.equal(t.proxy.count('PATCH'), 0)
})

test('server-sent events are the same however the text is divided', () => {
  const text =
    'event: data\r\ndata:one\r\ndata: two\n\n:comment\nid: 7\ndata\ndata:\n\nevent:x\n\ndata: é€😀\r\rdata:unfinished'
  const whole = new EventStreamParser().push(text)
  assert.deepEqual(whole, [
    { event: 'data', data: 'one\ntwo' },
    { event: 'message', data: '\n' },
    { event: 'message', data: 'é€😀' },
  ])
  for (let first = 0; first <= text.length; first++)
    for (let second = first; second <= text.length; second += 3) {
      const parser = new EventStreamParser()
      const parts = [text.slice(0, first), text.slice(first, second), text.slice(second)]
      assert.deepEqual(
        parts.flatMap((part) => parser.push(part)),
        whole,
        `${first}, ${second}`,
      )
    }
})

test('a long event in many pieces is looked through once, not once for each piece', (context) => {
  const split = context.mock.method(String.prototype, 'split')
  const parser = new EventStreamParser()
  parser.push('data: ')
  for (let count = 0; count < 100; count++) assert.deepEqual(parser.push('x'.repeat(1000)), [])
  assert.deepEqual(parser.push('\n\n'), [{ event: 'message', data: 'x'.repeat(100_000) }])
  assert.equal(split.mock.callCount(), 1)
})
