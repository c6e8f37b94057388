/** The real `useChat` of TanStack AI, under StrictMode, in Chromium, against the real proxy. */
import assert from 'node:assert/strict'
import { browserTest, openWorld } from './harness.js'

const world = openWorld()
const it = (name, body) => browserTest(world, `tanstack: ${name}`, body)
const started = (runId = 'up-1') => ({ type: 'RUN_STARTED', threadId: 'thread-1', runId, timestamp: 1 })
const finished = (finishReason = 'stop', runId = 'up-1') => ({
  type: 'RUN_FINISHED',
  threadId: 'thread-1',
  runId,
  finishReason,
  timestamp: 1,
})
const begin = (messageId = 'm1') => [
  started(),
  { type: 'TEXT_MESSAGE_START', messageId, role: 'assistant', timestamp: 1 },
]
const text = (delta, messageId = 'm1') => ({ type: 'TEXT_MESSAGE_CONTENT', messageId, delta, timestamp: 1 })
const end = (messageId = 'm1') => [{ type: 'TEXT_MESSAGE_END', messageId, timestamp: 1 }, finished()]

it('a question is answered, token by token, and nothing is stored when it was read', async (visit) => {
  const tab = await visit.open('tanstack')
  await tab.ask('hi')
  const call = await world.upstream.next()
  call.send(...begin(), text('Hel'))
  await tab.shows('user: hi', 'assistant: Hel')
  call.send(text('lo'), ...end()).end()
  await tab.shows('user: hi', 'assistant: Hello')
  await tab.hasStatus('ready')
  const { threadId, messages, tools } = call.body
  assert.deepEqual(
    [threadId, messages.map(({ role, content }) => [role, content]), tools],
    ['thread-1', [['user', 'hi']], []],
  )
  assert.equal(
    await tab.page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('durable')).length),
    0,
  )
  assert.deepEqual(visit.console, [])
})

for (const persistence of ['browser', 'server'])
  it(`a reload with persistence in the ${persistence} joins the run, again and again`, async (visit) => {
    const tab = await visit.open(`tanstack?persistence=${persistence}`)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin(), text('one '))
    await tab.shows('user: hi', 'assistant: one ')
    await tab.reload()
    await tab.shows('user: hi', 'assistant: one ')
    await tab.reload()
    call.send(text('two'), ...end()).end()
    await tab.shows('user: hi', 'assistant: one two')
    await tab.hasStatus('ready')
    assert.equal(world.upstream.calls.length, 1)
    assert.equal(visit.count('PATCH'), 0)
  })

it('a run that finished while away shows whole after a reload, and a second reload joins nothing', async (visit) => {
  const tab = await visit.open('tanstack')
  await tab.ask('hi')
  const call = await world.upstream.next()
  call.send(...begin(), text('begun'))
  await tab.shows('user: hi', 'assistant: begun')
  await tab.page.goto('about:blank')
  call.send(text(' and done'), ...end()).end()
  await call.closed
  await tab.page.goto(`${world.app}/tanstack`)
  await tab.shows('user: hi', 'assistant: begun and done')
  await tab.hasStatus('ready')
  const reads = visit.count('GET')
  await tab.reload()
  await tab.shows('user: hi', 'assistant: begun and done')
  await tab.hasStatus('ready')
  assert.equal(visit.count('GET'), reads)
})

it('detaching (and StrictMode, which did it already) sends no abort, and attaching goes on', async (visit) => {
  const tab = await visit.open('tanstack?persistence=server') // with a browser's persistence the SDK forgets the run
  await tab.ask('hi')
  const call = await world.upstream.next()
  call.send(...begin(), text('one '))
  await tab.shows('user: hi', 'assistant: one ')
  await tab.click('unmount')
  call.send(text('two '))
  await tab.click('mount')
  await tab.shows('user: hi', 'assistant: one two ')
  call.send(text('three'), ...end()).end()
  await tab.shows('user: hi', 'assistant: one two three')
  assert.equal(visit.count('PATCH'), 0)
  assert.equal(world.upstream.calls.length, 1)
})

it('stop() only disconnects; adapter.abort() cuts the upstream', async (visit) => {
  const tab = await visit.open('tanstack')
  await tab.ask('hi')
  const call = await world.upstream.next()
  call.send(...begin(), text('part'))
  await tab.shows('user: hi', 'assistant: part')
  await tab.click('stop')
  await tab.hasStatus('ready')
  assert.equal(call.isClosed, false)
  await tab.click('abort')
  await call.closed
})

it('with abortOnStop, stop() cuts the upstream', async (visit) => {
  const tab = await visit.open('tanstack?abortOnStop=true')
  await tab.ask('hi')
  const call = await world.upstream.next()
  call.send(...begin(), text('part'))
  await tab.shows('user: hi', 'assistant: part')
  await tab.click('stop')
  await call.closed
  await tab.hasStatus('ready')
})

it('a run of several turns, each with its RUN_FINISHED, completes', async (visit) => {
  const tab = await visit.open('tanstack')
  await tab.ask('weather?')
  const call = await world.upstream.next()
  call
    .send(
      ...begin(),
      text('Let me look. '),
      {
        type: 'TOOL_CALL_START',
        toolCallId: 'c1',
        toolCallName: 'weather',
        toolName: 'weather',
        parentMessageId: 'm1',
        timestamp: 1,
      },
      { type: 'TOOL_CALL_ARGS', toolCallId: 'c1', delta: '{}', timestamp: 1 },
      {
        type: 'TOOL_CALL_END',
        toolCallId: 'c1',
        toolCallName: 'weather',
        toolName: 'weather',
        input: {},
        timestamp: 1,
      },
      finished('tool_calls'),
      { type: 'TOOL_CALL_RESULT', toolCallId: 'c1', messageId: 't1', content: '"sun"', role: 'tool', timestamp: 1 },
      started(),
      { type: 'TEXT_MESSAGE_START', messageId: 'm2', role: 'assistant', timestamp: 1 },
      text('Sunny.', 'm2'),
      ...end('m2'),
    )
    .end()
  await tab.page.waitForFunction(() => document.body.textContent.includes('Sunny.'))
  await tab.hasStatus('ready')
  assert.match(await tab.page.textContent('body'), /Let me look\. \[weather\]/)
  assert.equal(world.upstream.calls.length, 1)
})

it('an answer that is cut off is an error', async (visit) => {
  const tab = await visit.open('tanstack')
  await tab.ask('hi')
  const call = await world.upstream.next()
  call.send(...begin(), text('part'))
  await tab.shows('user: hi', 'assistant: part')
  call.breakOff()
  await tab.hasStatus('error')
  assert.match(await tab.page.textContent('#error'), /incomplete: upstream_error/)
})

it('a lost network that comes back goes on without a duplicate', async (visit) => {
  const tab = await visit.open('tanstack')
  await tab.ask('hi')
  const call = await world.upstream.next()
  call.send(...begin(), text('one '))
  await tab.shows('user: hi', 'assistant: one ')
  await visit.goOffline()
  call.send(text('two '))
  await tab.page.waitForFunction(() => !navigator.onLine)
  await visit.goOnline()
  call.send(text('three'), ...end()).end()
  await tab.shows('user: hi', 'assistant: one two three')
  await tab.hasStatus('ready')
})
