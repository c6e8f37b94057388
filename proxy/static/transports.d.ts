/** Transports for chat SDKs: see docs/clients.md for examples. They have the SDKs' shapes and import none of them. */

import type { DurableFetchOptions, DurableResponse } from './client.js'

type Resolvable<T> = T | (() => T | Promise<T>)
type HeadersLike = Record<string, string> | Headers

interface ChatRequest {
  chatId: string
  headers?: HeadersLike
  body?: object
  metadata?: unknown
}

interface SendMessages<Message> extends ChatRequest {
  trigger: 'submit-message' | 'regenerate-message'
  messageId: string | undefined
  messages: Message[]
  abortSignal: AbortSignal | undefined
}

/** Options as DefaultChatTransport's, and durable fetch's. */
export interface DurableChatTransportOptions extends Omit<
  DurableFetchOptions,
  'resumeFrom' | 'autoResume' | 'abortOnSignal'
> {
  /** The upstream route, absolute or relative to the page (default `/api/chat`). */
  api?: string
  /** Sent upstream with every request. `Authorization` is for the upstream; the proxy's is `proxyAuthorization`. */
  headers?: Resolvable<HeadersLike>
  /** Put into the body of every request. */
  body?: Resolvable<object>
  /** How cookies go to the proxy (they never go on to the upstream). */
  credentials?: Resolvable<RequestCredentials>
  /** A second name for the chat's stream, where chat ids change from page to page. Called without messages on reconnect. */
  getRequestId?: (messages: any[]) => string
  /** Whether `stop()` stops the upstream (default true), or the reading only. */
  abortOnStop?: boolean
  prepareSendMessagesRequest?: (options: any) => PreparedRequest | PromiseLike<PreparedRequest>
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
  sendMessages(options: SendMessages<any>): Promise<ReadableStream<any>>
  /** Null when there is nothing to go on with; never asks the upstream again. */
  reconnectToStream(options: ChatRequest & { abortSignal?: AbortSignal }): Promise<ReadableStream<any> | null>
  /** The same as sendMessages. */
  send(options: SendMessages<any>): Promise<ReadableStream<any>>
  /** Stops the upstream of a chat (of the one used last), also where `abortOnStop` is false. */
  abort(chatId?: string): Promise<void>
}

export function createDurableChatTransport(options: DurableChatTransportOptions): DurableChatTransport

export interface DurableAdapterOptions extends Omit<DurableFetchOptions, 'resumeFrom' | 'abortOnSignal'> {
  headers?: Resolvable<HeadersLike>
  body?: Resolvable<Record<string, any>>
  /** Names the conversation where the SDK gives no thread id. */
  getRequestId?: (messages: any[], data?: any) => string
  /** Whether the SDK's signal (`stop()`, but also every unmount and detach) stops the upstream (default false). */
  abortOnStop?: boolean
  /** Messages for the wire. TanStack's own `uiMessagesToWire` keeps more than the default: reasoning, metadata. */
  toWire?: (messages: any[]) => unknown[]
  /** The stored transcript of a thread, for `persistence: true`; the run in progress is added to it. */
  hydrate?: (threadId: string, page?: { limit?: number; before?: string }) => Promise<Partial<ChatHydration>>
}

export interface ChatHydration {
  messages: any[]
  activeRun: { runId: string } | null
  interrupts: any
  page?: { truncated: false } | { truncated: true; cursor: string }
}

export interface DurableConnection {
  /** The answer's bytes. */
  stream: ReadableStream<Uint8Array>
  response: DurableResponse
  streamId: string | null
  streamUrl: string | null
  wasResumed: boolean
}

export interface RunContext {
  threadId: string
  runId: string
  parentRunId?: string
  resume?: any[]
  clientTools?: any[]
  forwardedProps?: Record<string, unknown>
  headers?: Record<string, string>
}

/** Has the shape of TanStack AI's ResumableConnectConnectionAdapter. */
export interface DurableAdapter {
  connect(
    messages: any[],
    data?: Record<string, any>,
    abortSignal?: AbortSignal,
    runContext?: RunContext,
  ): AsyncIterable<any>
  /** The promise form: one request, whose bytes are read as they are. */
  connect(request: {
    url?: string
    body?: any
    headers?: HeadersLike
    signal?: AbortSignal
  }): Promise<DurableConnection>
  /** Replays a run from its start and follows it. Throws when it is not known here, or was read to its end. */
  joinRun(runId: string, abortSignal?: AbortSignal): AsyncIterable<any>
  hydrate(threadId: string, page?: { limit?: number; before?: string }): Promise<ChatHydration>
  /** Stops the upstream of a run (of the one used last). */
  abort(runId?: string): Promise<void>
}

export function createDurableAdapter(apiUrl: string | (() => string), options: DurableAdapterOptions): DurableAdapter
