/** `useChat` of the Vercel AI SDK over the durable transport. */
import { useChat } from '@ai-sdk/react'
import { createDurableChatTransport } from 'durable-streams-proxy-client/vercel'
import { useEffect, useState } from 'react'
import { config, mount, options, params, View } from './chat.jsx'

const id = params.get('id') ?? 'chat-1'
const transport = createDurableChatTransport({
  api: config.api,
  abortOnStop: params.get('abortOnStop') !== 'false',
  ...options,
})
window.transport = transport

function Chat() {
  const [saved] = useState(() => JSON.parse(localStorage.getItem(`messages:${id}`) ?? '[]'))
  const chat = useChat({ id, messages: saved, transport, resume: true })
  useEffect(() => localStorage.setItem(`messages:${id}`, JSON.stringify(chat.messages)), [chat.messages])
  const messages = chat.messages.map(({ id, role, parts }) => {
    const text = parts
      .map((part) => part.text ?? (part.type.startsWith('tool-') ? `[${part.type} ${part.state}]` : ''))
      .join('')
    return { id, role, text }
  })
  const actions = {
    send: (text) => chat.sendMessage({ text }),
    stop: chat.stop,
    regenerate: chat.regenerate,
    resume: chat.resumeStream,
  }
  return <View messages={messages} status={chat.status} error={chat.error} actions={actions} />
}

mount(Chat)
