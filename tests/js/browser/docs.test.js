/** The examples of docs/clients.md, run as they stand there. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { browserTest, EXAMPLES, openWorld } from './harness.js'

const world = openWorld()

test('every example of the page is run here', () => {
  assert.deepEqual(Object.keys(EXAMPLES), ['fetch.js', 'vercel.jsx', 'tanstack.jsx'])
})

browserTest(world, 'docs: the fetch example asks, and another page goes on with the answer', async (visit) => {
  const ask = () =>
    void window
      .ask('why?', (text) => (document.body.dataset.text = (document.body.dataset.text ?? '') + text))
      .then((result) => (window.result = result))
  const shows = (text) => page.waitForFunction((wanted) => document.body.dataset.text === wanted, text)
  const { page } = await visit.open('docs-fetch')
  await page.evaluate(ask)
  const call = await world.upstream.next()
  assert.deepEqual(call.body, { question: 'why?' })
  call.send('one')
  await shows('data: one\n\n')
  await page.reload()
  await page.evaluate(ask)
  call.send('two').end()
  await shows('data: one\n\ndata: two\n\n')
  await page.waitForFunction(() => window.result)
  assert.deepEqual(await page.evaluate(() => window.result), { wasResumed: true, outcome: 'complete' })
  assert.equal(world.upstream.calls.length, 1)
})

browserTest(world, 'docs: a page of another origin imports the client from the proxy itself', async (visit) => {
  const { page } = await visit.open('docs-fetch')
  const { version } = JSON.parse(readFileSync(new URL('../../../proxy/static/package.json', import.meta.url), 'utf8'))
  const url = `${world.proxyUrl}/static/${version}`
  for (const [module, name] of [
    ['vercel', 'createDurableChatTransport'],
    ['tanstack', 'createDurableAdapter'],
  ]) {
    const names = await page.evaluate(async (from) => Object.keys(await import(from)), `${url}/${module}.js`)
    assert.deepEqual(names, [name])
  }
  const response = await page.request.get(`${url}/client.js`)
  assert.match(response.headers()['cache-control'], /immutable/)
  assert.match(response.headers()['content-type'], /^text\/javascript/)
})

const CHATS = {
  vercel: {
    begin: [{ type: 'start' }, { type: 'text-start', id: 't' }, { type: 'text-delta', id: 't', delta: 'one ' }],
    end: [{ type: 'text-delta', id: 't', delta: 'two' }, { type: 'text-end', id: 't' }, { type: 'finish' }],
    afterReload: ['one two'], // the messages of the page's own are the application's to keep
  },
  tanstack: {
    begin: [
      { type: 'RUN_STARTED', threadId: 'thread-1', runId: 'r' },
      { type: 'TEXT_MESSAGE_START', messageId: 'm', role: 'assistant' },
      { type: 'TEXT_MESSAGE_CONTENT', messageId: 'm', delta: 'one ' },
    ],
    end: [
      { type: 'TEXT_MESSAGE_CONTENT', messageId: 'm', delta: 'two' },
      { type: 'TEXT_MESSAGE_END', messageId: 'm' },
      { type: 'RUN_FINISHED', threadId: 'thread-1', runId: 'r', finishReason: 'stop' },
    ],
    afterReload: ['hi', 'one two'],
  },
}

for (const [name, { begin, end, afterReload }] of Object.entries(CHATS))
  browserTest(world, `docs: the ${name} example goes on after a reload, and stops`, async (visit) => {
    const { page } = await visit.open(`docs-${name}`)
    const shows = (...texts) =>
      page.waitForFunction(
        (wanted) => JSON.stringify([...document.querySelectorAll('p')].map((node) => node.textContent)) === wanted,
        JSON.stringify(texts),
      )
    const ask = async () => {
      await page.fill('input', 'hi')
      await page.click('button:text("Ask")')
      return world.upstream.next()
    }
    const first = (await ask()).send(...begin)
    await shows('hi', 'one ')
    await page.reload()
    first.send(...end).end()
    await shows(...afterReload)
    await page.waitForSelector('button:text("Ask")')
    for (const isAnswering of [false, true]) {
      const call = await ask()
      if (isAnswering) call.send(...begin)
      if (isAnswering) await page.waitForSelector('p:text-is("one ")')
      await page.fill('input', 'and')
      await page.press('input', 'Enter') // a form without a submit button is sent by this all the same
      await page.click('button:text("Stop")')
      await call.closed
      await page.waitForSelector('button:text("Ask")')
    }
    assert.equal(await page.inputValue('input'), 'and') // neither Enter nor the click that stopped has asked
    await page.fill('input', ' ')
    await page.click('button:text("Ask")')
    assert.equal(world.upstream.calls.length, 3)
    ;(await ask()).response.writeHead(429).end('slow down')
    await page.waitForSelector('[role=alert]:text("slow down")')
    await page.waitForSelector('button:text("Ask")')
  })
