// The JavaScript SDKs of openai and anthropic, directly or on durable fetch; tests/client/test_js_failures.py asks.
//
// A line of JSON in is one call; a line of JSON out is what its caller saw: an answer, or an error's class, status and
// Retry-After.
import { createInterface } from 'node:readline'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { MemoryStorage } from '../../proxy/static/client.js'
import { createSdkFetch } from '../../proxy/static/sdk.js'

const messages = [{ role: 'user', content: 'Say hello' }]
const SDKS = {
  openai: { Client: OpenAI, ask: (client, stream) => client.chat.completions.create({ model: 'm', messages, stream }) },
  anthropic: {
    Client: Anthropic,
    ask: (client, stream) => client.messages.create({ model: 'm', messages, max_tokens: 64, stream }),
  },
}

async function call({ sdk, url, proxy, secret, streamed, timeout, maxRetries }) {
  const { Client, ask } = SDKS[sdk]
  const durable = proxy && {
    fetch: createSdkFetch({
      proxyUrl: `${proxy}/v1/proxy`,
      proxyAuthorization: secret,
      storage: new MemoryStorage(),
      retry: { baseDelay: 1, maxDelay: 2 },
    }),
  }
  const client = new Client({ apiKey: 'sk-key', baseURL: url, maxRetries, timeout, ...durable })
  client.calculateDefaultRetryTimeoutMillis = () => 1 // the SDKs wait for half a second and more
  try {
    const answer = await ask(client, streamed)
    if (!streamed) return { answer: JSON.stringify(answer) }
    const items = []
    for await (const item of answer) items.push(item)
    return { answer: JSON.stringify(items) }
  } catch (error) {
    const headers = error.headers ?? new Headers()
    return { raised: error.constructor.name, status: error.status ?? null, wait: headers.get('retry-after') }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await call(JSON.parse(line)))}\n`)
}
