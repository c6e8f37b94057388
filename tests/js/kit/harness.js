/** What the unit tests share: a fake proxy for each test, and retries without waiting. */
import { afterEach, beforeEach } from 'node:test'
import { createDurableFetch, MemoryStorage } from '../../../proxy/static/client.js'
import { FakeProxy } from './fake-proxy.js'

export const UPSTREAM = 'https://api.example.com/v1/chat'
export const retry = { baseDelay: 1, maxDelay: 2 }

/** `context.proxy` is a new FakeProxy and `context.storage` an empty storage, for every test of a file. */
export function perTest() {
  const context = {}
  beforeEach(async () => {
    context.proxy = await FakeProxy.start()
    context.storage = new MemoryStorage()
  })
  afterEach(() => context.proxy.stop())
  context.options = (more) => ({ proxyUrl: context.proxy.url, storage: context.storage, retry, ...more })
  context.fetch = (more) => createDurableFetch(context.options(more))
  return context
}

export const post = (more) => ({
  method: 'POST',
  body: '{"question":1}',
  headers: { 'Content-Type': 'application/json' },
  ...more,
})
