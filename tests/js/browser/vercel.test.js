/** The real `useChat` of ai 6 and ai 7, under StrictMode, in Chromium, against the real proxy. */
import assert from 'node:assert/strict'
import { browserTest, openWorld } from './harness.js'

const world = openWorld()
const START = { type: 'start' }
const begin = [START, { type: 'start-step' }, { type: 'text-start', id: 't' }]
const text = (delta) => ({ type: 'text-delta', id: 't', delta })
const end = [{ type: 'text-end', id: 't' }, { type: 'finish-step' }, { type: 'finish' }, '[DONE]']

for (const sdk of ['ai-6', 'ai-7']) {
  const it = (name, body) => browserTest(world, `${sdk}: ${name}`, body)

  it('a question is answered, token by token, and nothing is stored when it was read', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('Hel'))
    await tab.shows('user: hi', 'assistant: Hel')
    await tab.hasStatus('streaming')
    call.send(text('lo'), ...end).end()
    await tab.shows('user: hi', 'assistant: Hello')
    await tab.hasStatus('ready')
    assert.deepEqual(
      call.body.messages.map(({ role }) => role),
      ['user'],
    )
    assert.deepEqual([call.body.id, call.body.trigger], ['chat-1', 'submit-message'])
    assert.equal(
      await tab.page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('durable')).length),
      0,
    )
    assert.deepEqual(visit.console, [])
  })

  it('a reload in mid-generation gives one complete message and one upstream call', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('one '))
    await tab.shows('user: hi', 'assistant: one ')
    await tab.reload()
    await tab.shows('user: hi', 'assistant: one ')
    call.send(text('two '))
    await tab.shows('user: hi', 'assistant: one two ')
    await tab.reload()
    call.send(text('three'), ...end).end()
    await tab.shows('user: hi', 'assistant: one two three')
    await tab.hasStatus('ready')
    assert.equal(world.upstream.calls.length, 1)
    assert.equal(visit.count('PATCH'), 0, 'StrictMode mounted twice, each time')
  })

  it('an answer that finished while away shows whole after a reload; a second reload reconnects to nothing', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('begun'))
    await tab.shows('user: hi', 'assistant: begun')
    await tab.page.goto('about:blank')
    call.send(text(' and done'), ...end).end()
    await call.closed
    await tab.page.goto(`${world.app}/${sdk}`)
    await tab.shows('user: hi', 'assistant: begun and done')
    await tab.hasStatus('ready')
    const reads = visit.count('GET')
    await tab.reload()
    await tab.shows('user: hi', 'assistant: begun and done')
    await tab.hasStatus('ready')
    assert.equal(visit.count('GET'), reads)
    assert.equal(world.upstream.calls.length, 1)
  })

  it('stop() cuts the upstream, and a reload brings nothing back', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('part'))
    await tab.shows('user: hi', 'assistant: part')
    await tab.click('stop')
    await call.closed
    await tab.hasStatus('ready')
    await tab.reload()
    await tab.shows('user: hi', 'assistant: part')
    await tab.hasStatus('ready')
  })

  it('stop() before the upstream has begun to answer cuts it too', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    const call = await world.upstream.next()
    await tab.click('stop')
    await call.closed
    await tab.hasStatus('ready')
  })

  it('a lost network that comes back goes on without a duplicate', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('one '))
    await tab.shows('user: hi', 'assistant: one ')
    await visit.goOffline()
    call.send(text('two '))
    await tab.page.waitForFunction(() => !navigator.onLine)
    await visit.goOnline()
    call.send(text('three'), ...end).end()
    await tab.shows('user: hi', 'assistant: one two three')
    await tab.hasStatus('ready')
    assert.equal(world.upstream.calls.length, 1)
  })

  it('a network lost for longer is an error, and coming back to the page goes on behind the last token', async (visit) => {
    const tab = await visit.open(`${sdk}?retry={"attempts":1,"attachAttempts":1,"offlineTimeout":0,"maxDelay":50}`)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('one '))
    await tab.shows('user: hi', 'assistant: one ')
    await visit.goOffline()
    await tab.hasStatus('error')
    await visit.goOnline()
    call.send(text('two'), ...end).end()
    await tab.page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')))
    await tab.shows('user: hi', 'assistant: one two')
    await tab.hasStatus('ready')
    assert.equal(world.upstream.calls.length, 1)
  })

  it('a second tab shows the same answer growing, and neither disturbs the other', async (visit) => {
    const first = await visit.open(sdk)
    await first.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('one '))
    await first.shows('user: hi', 'assistant: one ')
    const second = await visit.open(sdk)
    await second.shows('user: hi', 'assistant: one ')
    call.send(text('two'), ...end).end()
    for (const tab of [first, second]) {
      await tab.shows('user: hi', 'assistant: one two')
      await tab.hasStatus('ready')
    }
    assert.equal(world.upstream.calls.length, 1)
    assert.equal(visit.count('PATCH'), 0)
  })

  it('a second turn is a new call with the whole conversation, and a regeneration another', async (visit) => {
    const tab = await visit.open(sdk)
    const answer = async (words) => (await world.upstream.next()).send(...begin, text(words), ...end).end()
    await tab.ask('one?')
    await answer('one!')
    await tab.hasStatus('ready')
    await tab.ask('two?')
    await answer('two!')
    await tab.shows('user: one?', 'assistant: one!', 'user: two?', 'assistant: two!')
    await tab.hasStatus('ready')
    await tab.click('regenerate')
    await answer('two, again!')
    await tab.shows('user: one?', 'assistant: one!', 'user: two?', 'assistant: two, again!')
    assert.deepEqual(
      world.upstream.calls.map(({ body }) => [body.messages.length, body.trigger]),
      [
        [1, 'submit-message'],
        [3, 'submit-message'],
        [3, 'regenerate-message'],
      ],
    )
  })

  it('a component that unmounts and mounts again finds its answer, with abortOnStop off', async (visit) => {
    const tab = await visit.open(`${sdk}?abortOnStop=false`)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('one '))
    await tab.shows('user: hi', 'assistant: one ')
    await tab.click('unmount')
    call.send(text('two '))
    await tab.click('mount')
    await tab.shows('user: hi', 'assistant: one two ')
    call.send(text('three'), ...end).end()
    await tab.shows('user: hi', 'assistant: one two three')
    assert.equal(visit.count('PATCH'), 0)
  })

  it('an answer that its upstream breaks off is an error, not an end', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    const call = await world.upstream.next()
    call.send(...begin, text('part'))
    await tab.shows('user: hi', 'assistant: part')
    call.breakOff()
    await tab.hasStatus('error')
    assert.match(await tab.page.textContent('#error'), /incomplete: upstream_error/)
  })

  it('an upstream that refuses is an error with its own words', async (visit) => {
    const tab = await visit.open(sdk)
    await tab.ask('hi')
    ;(await world.upstream.next()).response.writeHead(400).end('the prompt is too long')
    await tab.hasStatus('error')
    assert.equal(await tab.page.textContent('#error'), 'the prompt is too long')
  })
}
