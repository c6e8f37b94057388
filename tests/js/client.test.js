import assert from 'node:assert/strict'
import { test, beforeEach, afterEach } from 'node:test'
import { createDurableFetch, MemoryStorage } from '../../proxy/static/client.js'
import { FakeProxy, FakeStream, cut, drop, readAll } from './kit/fake-proxy.js'

let proxy
beforeEach(async () => (proxy = await FakeProxy.start()))
afterEach(() => proxy.stop())

const retry = { baseDelay: 1, maxDelay: 2 }
const durable = (options = {}) => createDurableFetch({ proxyUrl: proxy.url, storage: new MemoryStorage(), retry, ...options })

test('hello', async () => {
  for (const live of ['sse', 'long-poll']) {
    const r = await durable({live})('https://up.example/x', {method:'POST', body:'q'})
    assert.equal(await r.text(), 'hello world')
    assert.equal(r.outcome, 'complete')
  }
})

test('cut at every byte', async () => {
  for (const live of ['sse', 'long-poll']) for (const controlEach of [true,false]) {
    proxy.controlEach = controlEach
    for (let n = 0; n < 620; n+=1) {
      proxy.makeStream = () => new FakeStream().append('alpha', 'béta', Buffer.from([0,255,10,13]), 'gamma').close()
      proxy.next('GET', cut(n))
      const r = await durable({live})('https://up.example/x', {method:'POST', body:'q'})
      const got = await readAll(r)
      proxy.faults.GET.length = 0
      assert.equal(got.toString('latin1'), Buffer.concat([Buffer.from('alphabéta'), Buffer.from([0,255,10,13]), Buffer.from('gamma')]).toString('latin1'), `${live} ${controlEach} ${n}`)
    }
  }
})
