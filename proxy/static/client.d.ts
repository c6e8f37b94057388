/** Durable fetch: see docs/clients.md for examples. */

/** Where credentials are kept: localStorage, sessionStorage, a MemoryStorage, or any object with these three methods. */
export interface DurableStorage {
  getItem(key: string): string | null
  setItem(key: string, value: string): void
  removeItem(key: string): void
}

/** Why a stream ended; `null` while it has not. Anything but `complete` is a prefix of the answer. */
export type Outcome =
  | 'complete'
  | 'aborted'
  | 'truncated'
  | 'timeout'
  | 'upstream_error'
  | 'storage_error'
  | 'interrupted'

/** What is stored about a stream, as JSON. The URL is a credential: it allows reading and aborting. */
export interface StreamCredentials {
  /** Pre-signed, absolute. */
  streamUrl: string
  streamId: string | null
  /** The last place that storage has named (opaque), and how many bytes after it were read. */
  offset: string
  skip: number
  upstreamContentType: string | null
  upstreamContentEncoding: string | null
  /** The upstream's status. */
  status: number
  /** The key of the create request. The same key again brings the same stream. */
  idempotencyKey?: string
  /** Fingerprint of method, URL and body. The same request id with another fingerprint is a new request. */
  fingerprint: string | null
  /** Every request id that these credentials are stored under. */
  ids: string[]
  note?: unknown
}

/** Times are in milliseconds. */
export interface RetryOptions {
  /** Failures in a row, without a new byte, before reading (or a stop) gives up with a TypeError (default 10). */
  attempts?: number
  /** Attempts for the first request of a call, whose caller still waits (default 3). */
  attachAttempts?: number
  /** The first back-off (default 250); it doubles, with full jitter, up to `maxDelay` (default 5 000). */
  baseDelay?: number
  maxDelay?: number
  /** Longest wait for a response that the proxy can begin at once (default 15 000). */
  headTimeout?: number
  /** A connection without a byte for this long is closed (default 90 000). */
  stallTimeout?: number
  /** How long a browser that knows itself offline waits for its network (default 300 000). */
  offlineTimeout?: number
}

export interface DurableFetchOptions {
  /** The proxy's create endpoint, `https://…/v1/proxy`; in a page it may be relative. */
  proxyUrl: string | URL
  /**
   * Sent as `Authorization: Bearer …`, never in a URL. In a browser, use a function that gets a short-lived JWT from your
   * own backend, because a service secret in a page is published. It is called for every create request.
   */
  proxyAuthorization?: string | (() => string | null | undefined | Promise<string | null | undefined>)
  /**
   * Whether a call reads the stream that its request id already has, or that another call of this page is waiting for,
   * instead of calling the upstream again (default true).
   */
  autoResume?: boolean
  /** Default: localStorage where there is one, else a MemoryStorage. */
  storage?: DurableStorage
  /** Default: the global one, looked up at each call. */
  fetch?: typeof globalThis.fetch
  /** Default `durable-streams:`. */
  storagePrefix?: string
  /** Where a resumed answer begins: at its first byte (the default), or after the last byte that was read. */
  resumeFrom?: 'start' | 'offset'
  /** How to wait for new bytes. SSE (the default) is faster; long-polls also work where SSE is buffered. */
  live?: 'sse' | 'long-poll'
  retry?: RetryOptions
  /** Whether a `signal` that fires also stops the upstream (default false: it only ends the reading). */
  abortOnSignal?: boolean
}

/** `credentials` is not used: the proxy takes no cookies. `redirect` is not used: a redirect is a failure. */
export interface DurableRequestInit extends RequestInit {
  /** Names the request, so that its answer is found again after a reload, until it was read to its end. */
  requestId?: string
  /** A second name for the request. */
  alias?: string
  /** JSON that is kept with the credentials and comes back as `response.note`. */
  note?: unknown
}

/** The upstream's answer. An answer that made no stream (an error) has `streamId` null. */
export interface DurableResponse extends Response {
  readonly streamId: string | null
  /** Pre-signed: it allows reading and aborting. */
  readonly streamUrl: string | null
  /** Where reading stands, live; opaque. */
  readonly offset: string | null
  readonly upstreamContentType: string | null
  readonly wasResumed: boolean
  /** How the stream ended: null until the body was read to its end. */
  readonly outcome: Outcome | null
  readonly note?: unknown
  /** The proxy's own error; null if the answer is the upstream's. */
  readonly proxyError: { code: string | null; message: string } | null
  /** Stops the upstream. What came before stays readable. */
  abort(): Promise<void>
}

export interface DurableFetch {
  (input: string | URL | Request, init?: DurableRequestInit): Promise<DurableResponse>
  /**
   * The answer stored under `requestId`, or null: nothing is stored, or the proxy says that it expired or is gone. Any
   * other failure rejects and keeps what is stored. Never calls the upstream.
   */
  resume(requestId: string, init?: { signal?: AbortSignal }): Promise<DurableResponse | null>
  /** Stops the upstream of the stream stored under `requestId` and forgets it; false if there is none. */
  abort(requestId: string): Promise<boolean>
  /** Forgets what is stored under `requestId`. The stream goes on. */
  forget(requestId: string): void
  /** What is stored under `requestId`. */
  stored(requestId: string): StreamCredentials | null
}

export function createDurableFetch(options: DurableFetchOptions): DurableFetch

/**
 * A function that stops the upstream of a stream by its pre-signed URL. Calling it again is harmless. It resolves when
 * the proxy has answered, and retries until then.
 */
export function createAbortFn(
  streamUrl: string,
  fetch?: typeof globalThis.fetch,
  retry?: RetryOptions,
): () => Promise<void>

export class MemoryStorage implements DurableStorage {
  readonly length: number
  key(index: number): string | null
  getItem(key: string): string | null
  setItem(key: string, value: string): void
  removeItem(key: string): void
}

export function getDefaultStorage(): DurableStorage
export function createStorageKey(prefix: string, proxyUrl: string | URL, requestId: string): string
/** False if the storage refused. */
export function saveCredentials(storage: DurableStorage, key: string, credentials: StreamCredentials): boolean
export function loadCredentials(storage: DurableStorage, key: string): StreamCredentials | null
/** With `streamId`: only if the credentials are still that stream's. */
export function removeCredentials(storage: DurableStorage, key: string, streamId?: string | null): void
/** `now` in milliseconds; `expires` as in the URL, in seconds. */
export function isUrlExpired(urlOrExpires: string | number, now?: number): boolean
export function extractStreamIdFromUrl(url: string): string | null
export function extractExpiresFromUrl(url: string): number | null

/** The body's error when the stream ended with another outcome than `complete`. What was read is a prefix. */
export class IncompleteStreamError extends Error {
  readonly outcome: Exclude<Outcome, 'complete'>
  readonly bytesRead: number
}

/** The proxy refused to read or abort a stream. */
export class ProxyError extends Error {
  readonly status: number
  readonly code: string | null
}

/** Text in any pieces to server-sent events. */
export class EventStreamParser {
  push(text: string): { event: string; data: string }[]
}
