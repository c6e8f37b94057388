/**
 * A durable fetch for SDKs, which decide by what a fetch does whether to call again: an upstream that could not be
 * reached is a rejection to them, and a 502 is the upstream's word. sdk.d.ts documents it.
 */
import { createDurableFetch, IncompleteStreamError } from './client.js'
import { networkError } from './errors.js'

/** What the proxy answers in the place of an upstream that gave no answer, and how fetch calls that. */
const FAILURES = { UPSTREAM_ERROR: '', UPSTREAM_TIMEOUT: 'the upstream timed out: ' }

export function createSdkFetch(options) {
  const durableFetch = createDurableFetch(options)
  return async (input, init) => {
    const response = await durableFetch(input, init)
    const { code, message } = response.proxyError ?? {}
    if (Object.hasOwn(FAILURES, code ?? '')) throw networkError(new Error(`${FAILURES[code]}${message}`))
    if (response.body === null) return response
    const { status, headers } = response
    return new Response(asOfFetch(response.body), { status, headers })
  }
}

/** The same bytes; where the upstream's connection broke, the failure that fetch has for that. */
function asOfFetch(body) {
  const reader = body.getReader()
  return new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await reader.read()
        if (done) controller.close()
        else controller.enqueue(value)
      } catch (error) {
        controller.error(error instanceof IncompleteStreamError ? networkError(error) : error)
      }
    },
    cancel: (reason) => reader.cancel(reason),
  })
}
