/** Compiled, never run: the transport is the real ChatTransport of ai 6 and of ai 7, in their own useChat. */
import { useChat as useChat6 } from '@ai-sdk/react-3'
import { useChat as useChat7 } from '@ai-sdk/react-4'
import type { ChatTransport as ChatTransport6, UIMessage as UIMessage6 } from 'ai-6'
import type { ChatTransport as ChatTransport7, UIMessage as UIMessage7 } from 'ai-7'
import { createDurableChatTransport } from 'durable-streams-proxy-client/vercel'

type Custom6 = UIMessage6<{ tokens: number }, { weather: { city: string } }>
type Custom7 = UIMessage7<{ tokens: number }, { weather: { city: string } }>

// The seed's own example.
const conversationId = '1'
const transport = createDurableChatTransport({
  api: 'https://api.example.com/api/chat',
  proxyUrl: 'https://my-proxy.example.com/v1/proxy',
  proxyAuthorization: 'service-secret',
  getRequestId: (_messages) => `chat-${conversationId}`,
})

export const in6: ChatTransport6<UIMessage6> = transport
export const in7: ChatTransport7<UIMessage7> = transport
export const custom6: ChatTransport6<Custom6> = transport
export const custom7: ChatTransport7<Custom7> = transport

export function Chat() {
  const six = useChat6({ id: 'a', transport, resume: true })
  const seven = useChat7({ id: 'a', transport, resume: true })
  useChat6<Custom6>({ transport })
  useChat7<Custom7>({ transport })
  return [six.messages, seven.messages, transport.abort('a'), transport.resumeStreamIsReplay]
}

createDurableChatTransport({
  proxyUrl: '/v1/proxy',
  headers: () => ({ Authorization: 'Bearer …' }),
  body: { model: 'm' },
  credentials: 'include',
  abortOnStop: false,
  prepareSendMessagesRequest: ({ id, messages }) => ({ body: { id, last: messages.at(-1) } }),
})
// @ts-expect-error: a chat always replays from the start
createDurableChatTransport({ proxyUrl: '/v1/proxy', resumeFrom: 'offset' })
