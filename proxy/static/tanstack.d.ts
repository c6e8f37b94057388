/** A connection adapter for TanStack AI. See docs/clients.md for an example. */

import type { HeadersLike, Resolvable } from './chat.js'
import type { DurableFetchOptions, DurableResponse } from './client.js'

// biome-ignore lint/suspicious/noExplicitAny: stands for the SDK's own types, which are not imported
type Sdk = any

export interface DurableAdapterOptions extends Omit<DurableFetchOptions, 'resumeFrom' | 'abortOnSignal'> {
  /** Sent upstream with every request. `Authorization` is for the upstream; the proxy's is `proxyAuthorization`. */
  headers?: Resolvable<HeadersLike>
  /** Put into `forwardedProps` of every request. */
  body?: Resolvable<Record<string, unknown>>
  /** Names the conversation if the SDK gives no thread id. */
  getRequestId?: (messages: Sdk[], data?: Sdk) => string
  /** Whether the SDK's signal (`stop()`, but also every unmount and detach) stops the upstream (default false). */
  abortOnStop?: boolean
  /** Converts the messages for the request. TanStack's `uiMessagesToWire` also keeps reasoning and metadata. */
  toWire?: (messages: Sdk[]) => unknown[]
  /** The stored transcript of a thread, for `persistence: true`. The adapter adds the run in progress. */
  hydrate?: (threadId: string, page?: { limit?: number; before?: string }) => Promise<Partial<ChatHydration>>
}

export interface ChatHydration {
  messages: Sdk[]
  activeRun: { runId: string } | null
  interrupts: Sdk
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
  resume?: Sdk[]
  clientTools?: Sdk[]
  forwardedProps?: Record<string, unknown>
  headers?: Record<string, string>
}

/** Has the shape of TanStack AI's ResumableConnectConnectionAdapter. */
export interface DurableAdapter {
  connect(
    messages: Sdk[],
    data?: Record<string, Sdk>,
    abortSignal?: AbortSignal,
    runContext?: RunContext,
  ): AsyncIterable<Sdk>
  /** The promise form: one request, whose answer is read as bytes. */
  connect(request: {
    url?: string
    body?: unknown
    headers?: HeadersLike
    signal?: AbortSignal
  }): Promise<DurableConnection>
  /** Replays a run from its start and follows it. Throws if the run is not known here, or was read to its end. */
  joinRun(runId: string, abortSignal?: AbortSignal): AsyncIterable<Sdk>
  hydrate(threadId: string, page?: { limit?: number; before?: string }): Promise<ChatHydration>
  /** Stops the upstream of a run (default: the run used last). */
  abort(runId?: string): Promise<void>
}

export function createDurableAdapter(apiUrl: string | (() => string), options: DurableAdapterOptions): DurableAdapter
