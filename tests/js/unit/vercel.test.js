/** The transport for the Vercel AI SDK against the scripted proxy: what it promises beyond durable fetch. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createDurableChatTransport } from '../../../proxy/static/vercel.js'
import { all, openStream, sse, USER } from '../kit/chat.js'
import { after, drop, hang, refuse } from '../kit/fake-proxy.js'
import { perTest, retry, UPSTREAM } from '../kit/harness.js'
import { gate, settled, until } from '../kit/waiting.js'

const t = perTest()
const text = (delta) => ({ type: 'text-delta', id: 't', delta })
const START = { type: 'start' }
const open = (...chunks) => openStream(t.proxy, ...chunks)

const chat = (more) => createDurableChatTransport(t.options({ api: UPSTREAM, ...more }))
const message = (more) => ({
  trigger: 'submit-message',
  chatId: 'c',
  messageId: undefined,
  messages: [USER],
  abortSignal: undefined,
  ...more,
})

test('chat: the request is the SDK’s own, with headers and body of options and call', async () => {
  open(START).close()
  const transport = chat({
    headers: async () => ({ Authorization: 'Bearer sk-1', 'X-A': 'options' }),
    body: { model: 'm', x: 1 },
  })
  await transport.sendMessages(
    message({ messageId: 'm1', headers: new Headers({ 'x-a': 'call' }), body: { x: 2, id: 'never' } }),
  )
  const [{ headers, body }] = t.proxy.requests
  assert.deepEqual(JSON.parse(body), {
    model: 'm',
    x: 2,
    id: 'c',
    messages: [USER],
    trigger: 'submit-message',
    messageId: 'm1',
  })
  assert.equal(headers['content-type'], 'application/json')
  assert.equal(headers['upstream-authorization'], 'Bearer sk-1')
  assert.equal(headers['x-a'], 'call')
  assert.equal(headers['upstream-url'], UPSTREAM)
})

test('chat: prepareSendMessagesRequest decides what is sent', async () => {
  open(START).close()
  const prepareSendMessagesRequest = ({ id, messages, body }) => ({
    api: `${UPSTREAM}/2`,
    body: { id, last: messages.at(-1), ...body },
  })
  await chat({ prepareSendMessagesRequest }).sendMessages(message({ body: { x: 1 } }))
  const [{ headers, body }] = t.proxy.requests
  assert.equal(headers['upstream-url'], `${UPSTREAM}/2`)
  assert.deepEqual(JSON.parse(body), { id: 'c', last: USER, x: 1 })
})

test('chat: chunks come as they are, unknown ones too, [DONE] does not', async () => {
  open(
    { ...START, messageId: 'm' },
    text('a'),
    { type: 'data-new-in-ai-9', x: 1 },
    { type: 'finish' },
    '[DONE]',
  ).close()
  const chunks = await all(await chat().sendMessages(message()))
  assert.deepEqual(chunks, [
    { type: 'start', messageId: 'm' },
    text('a'),
    { type: 'data-new-in-ai-9', x: 1 },
    { type: 'finish' },
  ])
})

test('chat: a start without id gets a stable one, the same in every replay', async () => {
  const stream = open(START, text('a'), START)
  const first = (await chat().sendMessages(message())).getReader()
  const { value } = await first.read()
  assert.deepEqual(value, { type: 'start', messageId: `msg-${stream.id}` })
  await first.cancel()
  stream.close()
  const replay = await all(await chat().reconnectToStream({ chatId: 'c' }))
  assert.deepEqual(replay, [value, text('a'), START], 'only the first start')
})

test('chat: a start that has an id keeps it, and one that goes on with the assistant’s message gets none', async () => {
  open({ ...START, messageId: 'own' }).close()
  assert.equal((await all(await chat().sendMessages(message())))[0].messageId, 'own')
  open(START).close()
  const messages = [USER, { id: 'a1', role: 'assistant', parts: [] }]
  assert.deepEqual(await all(await chat().sendMessages(message({ messages }))), [START])
})

test('chat: credentials are stored by chat id when the 201 arrives, and gone when the answer was read', async () => {
  const stream = open(START)
  const transport = chat()
  const chunks = await transport.sendMessages(message())
  assert.match(t.storage.key(0), /^durable-streams:http.*\/v1\/proxy:c$/)
  stream.close()
  await all(chunks)
  assert.equal(t.storage.length, 0)
  assert.equal(await transport.reconnectToStream({ chatId: 'c' }), null)
})

test('chat: every send is a new call, also of the same messages', async () => {
  open(START).close()
  const transport = chat()
  await transport.sendMessages(message())
  await transport.sendMessages(message())
  await transport.send(message({ trigger: 'regenerate-message' }))
  assert.equal(t.proxy.count('POST'), 3)
})

test('chat: nothing stored, expired or gone is null, and never a POST', async () => {
  assert.equal(await chat().reconnectToStream({ chatId: 'c' }), null)
  open(START)
  await chat().sendMessages(message())
  assert.equal(await chat().reconnectToStream({ chatId: 'another' }), null)
  t.proxy.next('GET', refuse(404, 'STREAM_NOT_FOUND'))
  assert.equal(await chat().reconnectToStream({ chatId: 'c' }), null)
  assert.equal(t.proxy.count('POST'), 1)
})

test('chat: getRequestId is a second name, for pages whose chat ids change', async () => {
  open(START).close()
  await chat({ getRequestId: () => 'conversation-1' }).sendMessages(message())
  const again = chat({ getRequestId: (messages) => (messages.length ? messages[0].id : 'conversation-1') })
  assert.deepEqual((await all(await again.reconnectToStream({ chatId: 'random' }))).length, 1)
  assert.equal(t.storage.length, 0)
  await chat({ getRequestId: (messages) => messages[0].id }).sendMessages(message())
  assert.ok(await chat({ getRequestId: (messages) => messages[0].id }).reconnectToStream({ chatId: 'c' }))
})

test('chat: a new page replays from the start', async () => {
  const stream = open(START, text('a'))
  const reader = (await chat().sendMessages(message())).getReader()
  await reader.read()
  await reader.read()
  stream.append(...sse(text('b'), '[DONE]')).close()
  const replay = await all(await chat().reconnectToStream({ chatId: 'c' }))
  assert.deepEqual(
    replay.map(({ type, delta }) => delta ?? type),
    ['start', 'a', 'b'],
  )
})

test('chat: the same page goes on behind the last chunk after a disconnect, without a second start, as often as it happens', async () => {
  const stream = open(START, text('a'))
  const transport = chat({ retry: { ...retry, attempts: 1 } })
  const seen = []
  /** Reads until `delta` was delivered, then loses the connection. */
  const readUntil = async (chunks, delta) => {
    for await (const chunk of chunks) {
      seen.push(chunk.delta ?? chunk.type)
      if (chunk.delta === delta) t.proxy.peer.cut()
    }
  }
  const isDisconnect = (error) => error instanceof TypeError && error.message.includes('network')
  await assert.rejects(readUntil(await transport.sendMessages(message()), 'a'), isDisconnect)
  stream.append(...sse(text('b')))
  await assert.rejects(readUntil(await transport.reconnectToStream({ chatId: 'c' }), 'b'), isDisconnect)
  t.proxy.next('GET', drop, drop, drop)
  await assert.rejects(transport.reconnectToStream({ chatId: 'c' }), isDisconnect, 'still offline')
  stream.append(...sse(text('c'))).close()
  await readUntil(await transport.reconnectToStream({ chatId: 'c' }))
  assert.deepEqual(seen, ['start', 'a', 'b', 'c'])
  assert.equal(t.proxy.count('POST'), 1)
})

test('chat: stop() rejects at once, and PATCHes after a macrotask', async () => {
  const stream = open(START)
  const controller = new AbortController()
  const reader = (await chat().sendMessages(message({ abortSignal: controller.signal }))).getReader()
  await reader.read()
  const pending = reader.read()
  controller.abort()
  await assert.rejects(pending, { name: 'AbortError' })
  assert.equal(t.proxy.count('PATCH'), 0)
  await t.proxy.arrived('PATCH')
  assert.equal(stream.outcome, 'aborted')
  assert.equal(await chat().reconnectToStream({ chatId: 'c' }), null)
})

test('chat: StrictMode’s unmount and mount again is no stop', async () => {
  const stream = open(START)
  await chat().sendMessages(message())
  const transport = chat()
  const [first, second] = [new AbortController(), new AbortController()]
  const unmounted = transport.reconnectToStream({ chatId: 'c', abortSignal: first.signal })
  first.abort()
  const mounted = transport.reconnectToStream({ chatId: 'c', abortSignal: second.signal })
  await assert.rejects(unmounted, { name: 'AbortError' })
  await settled()
  assert.equal(t.proxy.count('PATCH'), 0)
  stream.append(...sse(text('a'))).close()
  assert.equal((await all(await mounted)).length, 2)
})

test('chat: the last unmount is a stop, unless abortOnStop is false', async () => {
  for (const abortOnStop of [false, true]) {
    open(START)
    await chat().sendMessages(message())
    const transport = chat({ abortOnStop })
    const controller = new AbortController()
    await transport.reconnectToStream({ chatId: 'c', abortSignal: controller.signal })
    controller.abort()
    await (abortOnStop ? t.proxy.arrived('PATCH') : settled())
    assert.equal(t.proxy.count('PATCH'), Number(abortOnStop))
  }
})

test('chat: a stop before the 201 waits for it, then PATCHes', async () => {
  const stream = open(START)
  const waiting = gate()
  t.proxy.next('POST', after(waiting))
  const controller = new AbortController()
  const sent = chat().sendMessages(message({ abortSignal: controller.signal }))
  await t.proxy.arrived('POST')
  controller.abort()
  await assert.rejects(sent, { name: 'AbortError' })
  await settled()
  assert.equal(t.proxy.count('PATCH'), 0)
  waiting.open()
  await t.proxy.arrived('PATCH')
  assert.equal(stream.outcome, 'aborted')
})

test('chat: a stop before a 201 that does not come gives the request up', async () => {
  t.proxy.next('POST', hang)
  const controller = new AbortController()
  const sent = chat().sendMessages(message({ abortSignal: controller.signal }))
  const request = await t.proxy.arrived('POST')
  controller.abort()
  await assert.rejects(sent, { name: 'AbortError' })
  await until(() => request.gone)
})

test('chat: stop and send again at once: the old call is stopped, the new one is not', async () => {
  const old = open(START)
  const transport = chat()
  const controller = new AbortController()
  await transport.sendMessages(message({ abortSignal: controller.signal }))
  controller.abort()
  open(START, text('new')).close()
  const chunks = await transport.sendMessages(message())
  const { url } = await t.proxy.arrived('PATCH')
  assert.ok(url.includes(old.id))
  assert.equal((await all(chunks)).length, 2)
})

test('chat: a remount before the 201 finds the call that is on its way', async () => {
  open(START).close()
  const waiting = gate()
  t.proxy.next('POST', after(waiting))
  const transport = chat()
  const controller = new AbortController()
  const sent = transport.sendMessages(message({ abortSignal: controller.signal }))
  await t.proxy.arrived('POST')
  controller.abort()
  const mounted = transport.reconnectToStream({ chatId: 'c' })
  await assert.rejects(sent)
  waiting.open()
  assert.equal((await all(await mounted)).length, 1)
  assert.deepEqual([t.proxy.count('POST'), t.proxy.count('PATCH')], [1, 0])
})

test('chat: transport.abort always stops, in a new page too, by chat or the last one', async () => {
  const stop = [(transport) => transport.abort('c'), (transport) => transport.abort()]
  for (const way of stop) {
    const stream = open(START)
    const transport = chat({ abortOnStop: false })
    const chunks = await transport.sendMessages(message())
    await way(transport)
    assert.equal(stream.outcome, 'aborted')
    assert.deepEqual((await all(chunks)).at(-1), { type: 'abort' }, 'a reader sees an abort, not an error')
  }
  const stream = open(START)
  await chat().sendMessages(message())
  await chat().abort('c')
  assert.equal(stream.outcome, 'aborted')
  await chat().abort('c')
  await chat().abort()
  assert.equal(t.proxy.count('PATCH'), 3)
})

test('chat: cancelling the chunks is no stop', async () => {
  open(START, text('a'))
  const chunks = await chat().sendMessages(message())
  await chunks.cancel()
  await settled()
  assert.equal(t.proxy.count('PATCH'), 0)
  assert.ok(await chat().reconnectToStream({ chatId: 'c' }))
})

test('chat: truncation is an error, never an end', async () => {
  open(START, text('a')).close('truncated')
  await assert.rejects(async () => all(await chat().sendMessages(message())), {
    name: 'IncompleteStreamError',
    outcome: 'truncated',
  })
  const stream = open(START)
  stream.append('data: {"type":"text-de').close()
  await assert.rejects(async () => all(await chat().sendMessages(message())), SyntaxError)
})

test('chat: what the upstream or the proxy says instead of an answer is the error', async () => {
  t.proxy.next('POST', (_, response) => response.writeHead(502, { 'Upstream-Status': '400' }).end('bad prompt'))
  await assert.rejects(chat().sendMessages(message()), { message: 'bad prompt', status: 400 })
  t.proxy.next('POST', refuse(403, 'UPSTREAM_NOT_ALLOWED'))
  await assert.rejects(chat().sendMessages(message()), { status: 403, code: 'UPSTREAM_NOT_ALLOWED' })
  t.proxy.next('POST', (_, response) => response.writeHead(502, { 'Upstream-Status': '500' }).end())
  await assert.rejects(chat().sendMessages(message()), { message: 'Failed to fetch the chat response.' })
})
