/** The adapter for TanStack AI against the scripted proxy: what it promises beyond durable fetch. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createDurableAdapter } from '../../../proxy/static/tanstack.js'
import { all, openStream, sse, USER } from '../kit/chat.js'
import { after, drop, intercept, refuse } from '../kit/fake-proxy.js'
import { perTest, UPSTREAM } from '../kit/harness.js'
import { gate, settled, until } from '../kit/waiting.js'

const t = perTest()
const open = (...chunks) => openStream(t.proxy, ...chunks)

const adapter = (more) => createDurableAdapter(UPSTREAM, t.options(more))
const context = (more) => ({ threadId: 'thread-1', runId: 'run-1', ...more })
const RUN = [
  { type: 'RUN_STARTED', runId: 'p' },
  { type: 'TEXT_MESSAGE_CONTENT', delta: 'a' },
  { type: 'RUN_FINISHED', runId: 'p' },
]

test('tanstack: the adapter has connect, and never send or subscribe, which the SDK refuses beside it', () => {
  assert.deepEqual(Object.keys(adapter()).sort(), ['abort', 'connect', 'hydrate', 'joinRun'])
})

test('tanstack: the request is a RunAgentInput', async () => {
  open(...RUN).close()
  const messages = [
    { id: 'u', role: 'user', parts: [{ type: 'text', content: 'hi' }] },
    {
      id: 'a',
      role: 'assistant',
      parts: [
        { type: 'text', content: 'let me see' },
        { type: 'tool-call', id: 'c1', name: 'look', arguments: '{}', output: { found: 1 } },
      ],
    },
  ]
  const forwardedProps = { provider: 'p' }
  await all(
    adapter({ body: { model: 'm' } }).connect(
      messages,
      { x: 1 },
      undefined,
      context({ forwardedProps, parentRunId: 'r0' }),
    ),
  )
  const body = JSON.parse(t.proxy.requests[0].body)
  assert.deepEqual(body, {
    threadId: 'thread-1',
    runId: 'run-1',
    parentRunId: 'r0',
    state: {},
    messages: [
      { id: 'u', role: 'user', content: 'hi' },
      {
        id: 'a',
        role: 'assistant',
        content: 'let me see',
        toolCalls: [{ id: 'c1', type: 'function', function: { name: 'look', arguments: '{}' } }],
      },
      { role: 'tool', id: 'tool-c1', toolCallId: 'c1', content: '{"found":1}' },
    ],
    tools: [],
    context: [],
    forwardedProps: { model: 'm', provider: 'p', x: 1 },
    data: { model: 'm', provider: 'p', x: 1 },
  })
})

test('tanstack: several RUN_FINISHED in one stream are all delivered', async () => {
  open(...RUN, ...RUN, '[DONE]').close()
  assert.deepEqual(await all(adapter().connect([USER], undefined, undefined, context())), [...RUN, ...RUN])
})

test('tanstack: a run is joined from its start by its id, until it was read to its end', async () => {
  const stream = open(...RUN.slice(0, 2))
  const iterator = adapter().connect([USER], undefined, undefined, context())[Symbol.asyncIterator]()
  await iterator.next()
  stream.append(...sse(RUN[2])).close()
  const page = adapter()
  assert.deepEqual(await all(page.joinRun('run-1')), RUN)
  await assert.rejects(all(page.joinRun('run-1')), /not known/)
  assert.equal(t.proxy.count('POST'), 1)
})

test('tanstack: hydrate names the run in progress, beside the application’s transcript', async () => {
  const stream = open(...RUN)
  await adapter().connect([USER], undefined, undefined, context())[Symbol.asyncIterator]().next()
  assert.deepEqual(await adapter().hydrate('thread-1'), {
    messages: [],
    interrupts: null,
    activeRun: { runId: 'run-1' },
  })
  const page = adapter({ hydrate: async (threadId) => ({ messages: [{ id: threadId }] }) })
  assert.deepEqual(await page.hydrate('thread-1'), {
    messages: [{ id: 'thread-1' }],
    interrupts: null,
    activeRun: { runId: 'run-1' },
  })
  assert.equal((await adapter().hydrate('other')).activeRun, null)
  stream.close()
  await all(page.joinRun('run-1'))
  assert.equal((await page.hydrate('thread-1')).activeRun, null)
  assert.equal(t.storage.length, 0)
})

test('tanstack: the SDK’s signal is a disconnect: it ends the iterable quietly and stops nothing', async () => {
  open(RUN[0])
  const page = adapter()
  const controller = new AbortController()
  const iterator = page.connect([USER], undefined, controller.signal, context())[Symbol.asyncIterator]()
  await iterator.next()
  const pending = iterator.next()
  controller.abort()
  assert.equal((await pending).done, true)
  const reading = t.proxy.requests.at(-1)
  await until(() => reading.gone)
  await settled()
  assert.equal(t.proxy.count('PATCH'), 0)
})

test('tanstack: a disconnect before the 201 leaves a run that can be joined', async () => {
  const stream = open(...RUN)
  const waiting = gate()
  t.proxy.next('POST', after(waiting))
  const page = adapter()
  const controller = new AbortController()
  const chunks = all(page.connect([USER], undefined, controller.signal, context()))
  await t.proxy.arrived('POST')
  controller.abort()
  assert.deepEqual(await chunks, [])
  const joined = all(page.joinRun('run-1'))
  waiting.open()
  stream.close()
  assert.deepEqual(await joined, RUN)
})

test('tanstack: with abortOnStop a signal stops the run, unless it was joined again', async () => {
  const stream = open(RUN[0])
  const page = adapter({ abortOnStop: true })
  const [first, second] = [new AbortController(), new AbortController()]
  const iterator = page.connect([USER], undefined, first.signal, context())[Symbol.asyncIterator]()
  await iterator.next()
  first.abort()
  const joined = page.joinRun('run-1', second.signal)[Symbol.asyncIterator]()
  assert.deepEqual((await joined.next()).value, RUN[0])
  await settled()
  assert.equal(t.proxy.count('PATCH'), 0)
  second.abort()
  await t.proxy.arrived('PATCH')
  assert.equal(stream.outcome, 'aborted')
})

test('tanstack: abort stops the run, by id or the last one, and its reader ends without an error', async () => {
  for (const id of ['run-1', undefined]) {
    const stream = open(RUN[0])
    const page = adapter()
    const iterator = page.connect([USER], undefined, undefined, context())[Symbol.asyncIterator]()
    await iterator.next()
    await page.abort(id)
    assert.equal(stream.outcome, 'aborted')
    assert.equal((await iterator.next()).done, true)
    const patches = t.proxy.count('PATCH')
    await page.abort(id)
    assert.equal(t.proxy.count('PATCH'), patches, 'there is nothing left to stop')
  }
  open(RUN[0])
  await adapter().connect([USER], undefined, undefined, context())[Symbol.asyncIterator]().next()
  const reloaded = adapter()
  const joined = reloaded.joinRun('run-1')
  await joined.next()
  await reloaded.abort()
  assert.equal((await joined.next()).done, true)
})

test('tanstack: truncation throws, also after a RUN_FINISHED', async () => {
  open(...RUN).close('upstream_error')
  await assert.rejects(all(adapter().connect([USER], undefined, undefined, context())), { outcome: 'upstream_error' })
})

test('tanstack: a join that fails, but not because the run is gone, is a time-out to the SDK, which keeps the run', async () => {
  open(RUN[0])
  await adapter().connect([USER], undefined, undefined, context())[Symbol.asyncIterator]().next()
  for (const fault of [drop, intercept(404), intercept(200), refuse(401, 'INVALID_SECRET')]) {
    t.proxy.between = fault
    await assert.rejects(all(adapter().joinRun('run-1')), { name: 'TimeoutError' })
  }
  t.proxy.between = null
  const joined = adapter().joinRun('run-1')
  assert.deepEqual((await joined.next()).value, RUN[0])
})

test('tanstack: what the upstream says instead of an answer is the error', async () => {
  t.proxy.next('POST', (_, response) => response.writeHead(502, { 'Upstream-Status': '400' }).end('bad prompt'))
  await assert.rejects(all(adapter().connect([USER], undefined, undefined, context())), {
    message: 'bad prompt',
    status: 400,
  })
})

test('tanstack: the promise form gives the bytes, resumes, and is aborted', async () => {
  const stream = open(RUN[0])
  const getRequestId = (_messages, data) => data?.conversationId ?? 'default'
  const body = { messages: [USER], conversationId: 'c7' }
  const page = adapter({ getRequestId, headers: { Authorization: 'Bearer sk-1' } })
  const connection = await page.connect({ url: `${UPSTREAM}/2`, body })
  const { value } = await connection.stream.getReader().read()
  assert.equal(Buffer.from(value).toString(), sse(RUN[0])[0])
  assert.equal(t.proxy.requests[0].headers['upstream-url'], `${UPSTREAM}/2`)
  assert.equal(t.proxy.requests[0].headers['upstream-authorization'], 'Bearer sk-1')
  assert.deepEqual(JSON.parse(t.proxy.requests[0].body), body)
  assert.equal(connection.streamId, stream.id)
  const again = await adapter({ getRequestId }).connect({ url: `${UPSTREAM}/2`, body })
  assert.equal(again.wasResumed, true)
  await page.abort()
  assert.equal(stream.outcome, 'aborted')
})
