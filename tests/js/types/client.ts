/** Compiled, never run: the client's types accept what is documented and refuse what is not. */
import {
  createAbortFn,
  createDurableFetch,
  createStorageKey,
  type DurableFetch,
  type DurableResponse,
  type DurableStorage,
  extractExpiresFromUrl,
  extractStreamIdFromUrl,
  getDefaultStorage,
  IncompleteStreamError,
  isUrlExpired,
  loadCredentials,
  MemoryStorage,
  type Outcome,
  removeCredentials,
  saveCredentials,
} from 'durable-streams-proxy-client'

const storages: DurableStorage[] = [localStorage, sessionStorage, new MemoryStorage(), getDefaultStorage()]

const durableFetch: DurableFetch = createDurableFetch({
  proxyUrl: 'https://my-proxy.example.com/v1/proxy',
  proxyAuthorization: async () => (await fetch('/api/token')).text(),
  autoResume: true,
  storage: localStorage,
  fetch: globalThis.fetch,
  storagePrefix: 'durable-streams:',
  resumeFrom: 'offset',
  live: 'long-poll',
  retry: { attempts: 3 },
  abortOnSignal: true,
})

// @ts-expect-error: the proxy's URL is needed
createDurableFetch({})
// @ts-expect-error: no such live mode
createDurableFetch({ proxyUrl: '', live: 'polling' })

/** A durable fetch goes wherever a fetch does, such as an SDK's option. */
const asFetch: typeof fetch = durableFetch

export async function use(): Promise<Outcome | null> {
  const response: DurableResponse = await durableFetch('https://api.openai.com/v1/chat/completions', {
    method: 'POST',
    headers: { Authorization: 'Bearer sk-…' },
    body: JSON.stringify({ stream: true }),
    requestId: 'conversation-123',
  })
  if (response.proxyError) throw new Error(response.proxyError.message)
  // @ts-expect-error: there is no stream when the upstream refused
  createAbortFn(response.streamUrl)
  if (response.streamUrl) await createAbortFn(response.streamUrl)()
  try {
    for await (const bytes of response.body ?? []) bytes satisfies Uint8Array
  } catch (error) {
    if (error instanceof IncompleteStreamError) error.outcome satisfies Outcome
  }
  const resumed: DurableResponse | null = await durableFetch.resume('conversation-123')
  await resumed?.abort()
  const stopped: boolean = await durableFetch.abort('conversation-123')
  durableFetch.forget('conversation-123')
  const [storage = getDefaultStorage()] = storages
  const key = createStorageKey('p:', 'https://proxy', 'id')
  const credentials = loadCredentials(storage, key)
  if (credentials && !isUrlExpired(credentials.streamUrl)) saveCredentials(storage, key, credentials)
  removeCredentials(storage, key)
  void [asFetch, stopped, extractExpiresFromUrl('')?.toFixed(), extractStreamIdFromUrl('')?.length]
  return response.outcome
}
