/** What the chat transports share. */

import type { DurableResponse } from './client.js'

/** An option that is a value, or a function that returns it. */
export type Resolvable<T> = T | (() => T | Promise<T>)
export type HeadersLike = Record<string, string> | Headers

export function abortError(): DOMException
/** Resolves after the current task and its microtasks. */
export function macrotask(): Promise<void>
/** The value of an option that may be a function. */
export function resolve<T>(value: Resolvable<T>): T | Promise<T>
/** Header fields as pairs. */
export function entries(headers: HeadersLike | undefined): [string, string][]
export function onceAborted(signal: AbortSignal | undefined, listener: () => void): void
/** `promise`, or a rejection as soon as `signal` fires. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T>

/** One call to the upstream, from before its 201 to the end of its stream. */
export class Call {
  constructor(create: (signal: AbortSignal) => Promise<DurableResponse>)
  /** Null until the 201. */
  readonly response: DurableResponse | null
  readonly created: Promise<DurableResponse>
  /** Whether there is nothing left to stop. */
  isOver: boolean
  /** Stops the upstream; before the 201 it waits for it for a moment, then cancels the request. */
  stop(): Promise<void>
  /** Ends the request, or the reading of its answer. */
  cancel(): void
}

/** The JSON events of a server-sent event stream, without `[DONE]`. */
export class JsonEvents {
  constructor(body: ReadableStream<Uint8Array>)
  next(): Promise<{ done: boolean; value: unknown }>
  /** Ends the reading. The upstream goes on. */
  cancel(): Promise<void>
}

/** `response` if it is ok; otherwise throws an Error with message, `status` and `code`. */
export function ensureOk(response: DurableResponse, fallback: string): Promise<DurableResponse>
