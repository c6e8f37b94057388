/** A durable fetch for the SDKs of openai and anthropic. See docs/clients.md for an example. */

import type { DurableFetchOptions } from './client.js'

/**
 * Makes a durable fetch that fails as the global one does, so that an SDK retries and reports as on a direct connection.
 * An upstream that cannot be reached, or does not answer in time, rejects with a TypeError. A body that the upstream broke
 * off fails with a TypeError whose `cause` is the IncompleteStreamError. The proxy's own refusals stay responses.
 */
export function createSdkFetch(options: DurableFetchOptions): typeof globalThis.fetch
