/** A chat transport for the Vercel AI SDK (ai 6 and 7). See docs/clients.md for an example. */

import type { HeadersLike, Resolvable } from './chat.js'
import type { DurableFetchOptions } from './client.js'

// biome-ignore lint/suspicious/noExplicitAny: stands for the SDK's own types, which are not imported and differ by version
type Sdk = any

interface ChatRequest {
  chatId: string
  headers?: HeadersLike
  body?: object
  metadata?: unknown
}

interface SendMessages extends ChatRequest {
  trigger: 'submit-message' | 'regenerate-message'
  messageId: string | undefined
  messages: Sdk[]
  abortSignal: AbortSignal | undefined
}

/** The options of DefaultChatTransport and of durable fetch. */
export interface DurableChatTransportOptions
  extends Omit<DurableFetchOptions, 'resumeFrom' | 'autoResume' | 'abortOnSignal'> {
  /** The upstream route, absolute or relative to the page (default `/api/chat`). */
  api?: string
  /** Sent upstream with every request. `Authorization` is for the upstream; the proxy's is `proxyAuthorization`. */
  headers?: Resolvable<HeadersLike>
  /** Put into the body of every request. */
  body?: Resolvable<object>
  /**
   * Passed to `prepareSendMessagesRequest` and not used otherwise: the proxy takes no cookies, and with CORS for every
   * origin a browser refuses an answer to a request that carries them.
   */
  credentials?: Resolvable<RequestCredentials>
  /** A second name for the chat's stream, for pages whose chat ids change. On reconnect it is called without messages. */
  getRequestId?: (messages: Sdk[]) => string
  /** Whether `stop()` stops the upstream (default true), or only the reading. */
  abortOnStop?: boolean
  prepareSendMessagesRequest?: (options: Sdk) => PreparedRequest | PromiseLike<PreparedRequest>
}

interface PreparedRequest {
  api?: string
  body?: object
  headers?: HeadersInit
  credentials?: RequestCredentials
}

/** Has the shape of the SDK's ChatTransport, in ai 6 and in ai 7. */
export interface DurableChatTransport {
  readonly resumeStreamIsReplay: true
  sendMessages(options: SendMessages): Promise<ReadableStream<Sdk>>
  /** Null when there is nothing to resume. Never calls the upstream. */
  reconnectToStream(options: ChatRequest & { abortSignal?: AbortSignal }): Promise<ReadableStream<Sdk> | null>
  /** The same as sendMessages. */
  send(options: SendMessages): Promise<ReadableStream<Sdk>>
  /** Stops the upstream of a chat (default: the chat used last), also if `abortOnStop` is false. */
  abort(chatId?: string): Promise<void>
}

export function createDurableChatTransport(options: DurableChatTransportOptions): DurableChatTransport
