/** `useChat` of TanStack AI over the durable adapter. */
import { localStoragePersistence } from '@tanstack/ai-client'
import { useChat } from '@tanstack/ai-react'
import { createDurableAdapter } from 'durable-streams-proxy-client/tanstack'
import { useEffect } from 'react'
import { config, mount, options, params, View } from './chat.jsx'

const adapter = createDurableAdapter(config.api, {
  ...options,
  abortOnStop: params.get('abortOnStop') === 'true',
  hydrate: async () => ({ messages: JSON.parse(localStorage.getItem('questions') ?? '[]') }),
})
window.adapter = adapter
// With `persistence: true` the transcript is the server's: here, the questions that a server would have seen.
const persistence = params.get('persistence') === 'server' ? true : localStoragePersistence()

function Chat() {
  const chat = useChat({ connection: adapter, threadId: 'thread-1', persistence })
  useEffect(() => {
    const questions = chat.messages.filter(({ role }) => role === 'user')
    if (questions.length) localStorage.setItem('questions', JSON.stringify(questions))
  }, [chat.messages])
  const messages = chat.messages.map(({ id, role, parts }) => {
    const text = parts
      .map((part) => (part.type === 'text' ? part.content : part.type === 'tool-call' ? `[${part.name}]` : ''))
      .join('')
    return { id, role, text }
  })
  const actions = { send: (text) => chat.sendMessage(text), stop: chat.stop, abort: () => adapter.abort() }
  return <View messages={messages} status={chat.status} error={chat.error} actions={actions} />
}

mount(Chat)
