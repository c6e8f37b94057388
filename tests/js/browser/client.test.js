/** Durable fetch in a page, against the real proxy, over a network that is cut again and again. */
import assert from 'node:assert/strict'
import { browserTest, openWorld } from './harness.js'

const world = openWorld()

for (const live of ['sse', 'long-poll'])
  browserTest(world, `client: by ${live}, every byte arrives once, however often the network is cut`, async (visit) => {
    const { page } = await visit.open('docs-fetch')
    const begun = page.evaluate(
      async ([from, api, mode]) => {
        const { createDurableFetch } = await import(`${from}/static/client.js`)
        const proxyAuthorization = async () => (await fetch('/api/proxy-token')).text()
        const retry = { baseDelay: 10, maxDelay: 50 }
        const durableFetch = createDurableFetch({ proxyUrl: `${from}/v1/proxy`, proxyAuthorization, live: mode, retry })
        const response = await durableFetch(api, { method: 'POST', body: '{}' })
        window.text = ''
        window.read = (async () => {
          for await (const part of response.body.pipeThrough(new TextDecoderStream())) window.text += part
          return response.outcome
        })()
        return response.status
      },
      [world.proxyUrl, world.api, live],
    )
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
