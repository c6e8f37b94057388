/** Durable fetch in a page, against the real proxy, over a network that is cut again and again. */
import assert from 'node:assert/strict'
import { browserTest, openWorld } from './harness.js'

const world = openWorld()

/** Runs in the page: asks, and keeps what was read in `window.text`. `window.read` resolves with the outcome. */
async function ask([from, api, options, init]) {
  const { createDurableFetch } = await import(`${from}/static/client.js`)
  const proxyAuthorization = async () => (await fetch('/api/proxy-token')).text()
  const retry = { baseDelay: 10, maxDelay: 50, ...options.retry }
  const durableFetch = createDurableFetch({ proxyUrl: `${from}/v1/proxy`, proxyAuthorization, ...options, retry })
  const response = await durableFetch(api, { method: 'POST', body: '{}', ...init })
  window.text = ''
  window.read = (async () => {
    for await (const part of response.body.pipeThrough(new TextDecoderStream())) window.text += part
    return response.outcome
  })()
  return response.status
}

const shows = (page, text) => page.waitForFunction((wanted) => window.text === wanted, text)

for (const live of ['sse', 'long-poll'])
  browserTest(world, `client: by ${live}, every byte arrives once, however often the network is cut`, async (visit) => {
    const { page } = await visit.open('docs-fetch')
    const begun = page.evaluate(ask, [world.proxyUrl, world.api, { live }, {}])
    let sent = ''
    const call = await world.upstream.next()
    call.send()
    call.response.flushHeaders()
    assert.equal(await begun, 200)
    for (let index = 0; index < 30; index++) {
      const piece = `piece ${index}: ${'é'.repeat(index * 40)};`
      call.send(piece)
      sent += `data: ${piece}\n\n`
      if (index % 3 === 2) {
        await page.waitForFunction((length) => window.text?.length >= length, sent.length - piece.length)
        world.network.cut()
        world.network.mend()
      }
    }
    call.end()
    assert.equal(await page.evaluate(() => window.read), 'complete')
    assert.equal(await page.evaluate(() => window.text), sent)
    assert.ok(visit.count('GET') >= 10)
  })

browserTest(world, 'client: pages that something between answers are not the answer, and cost none', async (visit) => {
  const { page } = await visit.open('docs-fetch')
  const pages = [200, 404, 403, 520, 200]
  await page.route(`${world.proxyUrl}/v1/proxy/*`, async (route) => {
    const status = pages.shift()
    if (status === undefined) return route.continue()
    const headers = { 'Access-Control-Allow-Origin': '*', 'Content-Type': 'text/html' }
    await route.fulfill({ status, headers, body: '<h1>Please log in</h1>' })
  })
  const init = { requestId: 'r', credentials: 'include' }
  const begun = page.evaluate(ask, [world.proxyUrl, world.api, {}, init])
  const call = await world.upstream.next()
  call.send('one')
  assert.equal(await begun, 200)
  await shows(page, 'data: one\n\n')
  pages.push(404, 200)
  await page.reload()
  const resumed = page.evaluate(ask, [world.proxyUrl, world.api, {}, init])
  call.send('two').end()
  assert.equal(await resumed, 200)
  assert.equal(await page.evaluate(() => window.read), 'complete')
  assert.equal(await page.evaluate(() => window.text), 'data: one\n\ndata: two\n\n')
  assert.equal(world.upstream.calls.length, 1)
})

browserTest(world, 'client: where SSE is held back, the answer comes by long-poll', async (visit) => {
  const { page } = await visit.open('docs-fetch')
  await page.route(/live=sse/, () => {}) // never answered
  const begun = page.evaluate(ask, [world.proxyUrl, world.api, { retry: { headTimeout: 300 } }, {}])
  const call = await world.upstream.next()
  call.send('one')
  assert.equal(await begun, 200)
  await shows(page, 'data: one\n\n')
  call.send('two').end()
  assert.equal(await page.evaluate(() => window.read), 'complete')
  assert.equal(visit.requests.filter((request) => request.url().includes('live=sse')).length, 3)
})
