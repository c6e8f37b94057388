/** Compiled, never run: the adapter is TanStack AI's real connection adapter, in its own useChat. */
import { uiMessagesToWire } from '@tanstack/ai/client'
import type {
  ConnectConnectionAdapter,
  ConnectionAdapter,
  ResumableConnectConnectionAdapter,
} from '@tanstack/ai-client'
import { localStoragePersistence } from '@tanstack/ai-client'
import { useChat } from '@tanstack/ai-react'
import { createDurableAdapter } from 'durable-streams-proxy-client/tanstack'

// The seed's own example.
const adapter = createDurableAdapter('https://api.example.com/api/chat', {
  proxyUrl: 'https://my-proxy.example.com/v1/proxy',
  proxyAuthorization: 'service-secret',
  getRequestId: (_messages, data) => data?.conversationId ?? 'default',
})

export async function seed(messages: unknown[]) {
  const connection = await adapter.connect({
    url: 'https://api.example.com/api/chat',
    body: { messages },
  })
  const reader = connection.stream.getReader()
  await adapter.abort()
  return reader.read()
}

export const any: ConnectionAdapter = adapter
export const connecting: ConnectConnectionAdapter = adapter
export const resumable: ResumableConnectConnectionAdapter = adapter

export function Chat() {
  const persistence = localStoragePersistence({})
  useChat({ connection: adapter, threadId: 'thread-1', persistence })
  return useChat({ connection: adapter, threadId: 'thread-1', persistence: true })
}

createDurableAdapter(() => '/api/chat', {
  proxyUrl: '/v1/proxy',
  toWire: uiMessagesToWire,
  hydrate: async (threadId) => (await fetch(`/api/threads/${threadId}`)).json(),
})
