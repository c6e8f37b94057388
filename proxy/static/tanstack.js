/**
 * A connection adapter for TanStack AI, over durable fetch.
 *
 * Owns what the SDK means by connect, disconnect and join, and the request in AG-UI's form. The SDK is not imported: the
 * adapter has the shape that it expects. Types are in tanstack.d.ts.
 */

import { Call, ensureOk, entries, JsonEvents, macrotask, onceAborted, resolve, unlessAborted } from './chat.js'
import { createDurableFetch, IncompleteStreamError } from './client.js'

/** A connection adapter for TanStack AI. See tanstack.d.ts for the options, docs/clients.md for an example. */
export function createDurableAdapter(apiUrl, options) {
  const runs = new Runs(apiUrl, options)
  return {
    connect: (...args) => (Array.isArray(args[0]) ? runs.connect(...args) : runs.open(args[0])),
    joinRun: (runId, signal) => runs.join(runId, signal),
    hydrate: (threadId, page) => runs.hydrate(threadId, page),
    abort: (runId) => runs.abort(runId),
  }
}

const randomRunId = () => `run-${crypto.getRandomValues(new Uint32Array(2)).join('-')}`

/** The runs of one page. */
class Runs {
  #apiUrl
  #options
  #fetch
  #runs = new Map() // run id -> {call, joins}
  #last = null // {call} or {requestId}: what abort() without an id stops

  constructor(apiUrl, options) {
    this.#apiUrl = apiUrl
    this.#options = options
    this.#fetch = createDurableFetch({ ...options, resumeFrom: 'start' })
  }

  async #post(url, { headers, body, ...init }) {
    const own = entries(await resolve(this.#options.headers))
    const all = { 'Content-Type': 'application/json', ...Object.fromEntries([...own, ...entries(headers)]) }
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const target = url ?? resolve(this.#apiUrl)
    const response = await this.#fetch(target, { method: 'POST', headers: all, body: text, ...init })
    return ensureOk(response, 'The request failed.')
  }

  /** The promise form of `connect`: one request, and its answer's bytes. */
  async open({ url, body, headers, signal }) {
    const requestId = this.#options.getRequestId?.(body?.messages ?? [], body)
    const call = new Call((given) => this.#post(url, { headers, body, requestId, signal: given }))
    onceAborted(signal, () => call.cancel())
    this.#last = { call }
    const response = await call.created
    const { streamId, streamUrl, wasResumed } = response
    return { stream: response.body, response, streamId, streamUrl, wasResumed }
  }

  async *connect(messages, data, signal, context = {}) {
    if (signal?.aborted) return
    const threadId = context.threadId ?? this.#options.getRequestId?.(messages, data) ?? 'default'
    const runId = context.runId ?? randomRunId()
    const call = new Call(async (given) => {
      const input = { messages, data, context: { ...context, threadId, runId } }
      const body = runInput(input, await resolve(this.#options.body), this.#options.toWire)
      const names = { requestId: `run:${runId}`, alias: `thread:${threadId}`, note: { runId } }
      return this.#post(undefined, { headers: context.headers, body, signal: given, ...names })
    })
    this.#runs.set(runId, { call, joins: 0 })
    this.#last = { call }
    yield* this.#chunks(runId, () => call.created, signal)
  }

  async *join(runId, signal) {
    if (signal?.aborted) return
    if (!this.#runs.has(runId)) this.#runs.set(runId, { call: null, joins: 0 })
    const entry = this.#runs.get(runId)
    entry.joins++
    this.#last = entry.call ? entry : { requestId: `run:${runId}` }
    yield* this.#chunks(runId, () => this.#find(runId, entry, signal), signal)
  }

  async #find(runId, entry, signal) {
    await entry.call?.created.catch(() => {})
    const response = await this.#fetch.resume(`run:${runId}`, { signal }).catch((error) => {
      // The SDK forgets a run whose join is refused, but keeps one that timed out. This failure proves nothing about it.
      throw signal?.aborted ? error : Object.assign(error, { name: 'TimeoutError' })
    })
    if (!response) throw new Error(`run ${runId} is not known here, or was read to its end`)
    return response
  }

  /** The chunks of a run. `signal` means "disconnect": it ends the iteration and leaves the run alone. */
  async *#chunks(runId, find, signal) {
    const entry = this.#runs.get(runId)
    const mark = entry.joins
    let events
    onceAborted(signal, () => {
      events?.cancel()
      this.#stopUnlessJoined(runId, entry, mark)
    })
    try {
      const response = await unlessAborted(find(), signal)
      events = new JsonEvents(response.body)
      for (;;) {
        const { done, value } = await unlessAborted(events.next(), signal)
        if (done) break
        yield value
      }
      this.#runs.delete(runId)
    } catch (error) {
      if (signal?.aborted) return
      if (error instanceof IncompleteStreamError) this.#runs.delete(runId)
      if (error.outcome !== 'aborted') throw error
    } finally {
      events?.cancel()
      if (!this.#runs.has(runId) && entry.call) entry.call.isOver = true
    }
  }

  async #stopUnlessJoined(runId, entry, mark) {
    await macrotask()
    if (this.#options.abortOnStop && entry.joins === mark) await this.abort(runId).catch(() => {})
  }

  async hydrate(threadId, page) {
    const known = await this.#options.hydrate?.(threadId, page)
    const runId = this.#fetch.stored(`thread:${threadId}`)?.note?.runId
    return { messages: [], interrupts: null, activeRun: runId ? { runId } : null, ...known }
  }

  async abort(runId) {
    const named = { ...this.#runs.get(runId), requestId: `run:${runId}` }
    const { call, requestId } = runId === undefined ? (this.#last ?? {}) : named
    if (call) await (call.isOver || call.stop())
    else if (requestId) await this.#fetch.abort(requestId)
  }
}

/** AG-UI's RunAgentInput. `convert` may be TanStack's own `uiMessagesToWire`; the default keeps text, tools and media. */
function runInput({ messages, data, context }, ownBody, convert = toWire) {
  const forwardedProps = { ...ownBody, ...context.forwardedProps, ...data }
  return {
    threadId: context.threadId,
    runId: context.runId,
    ...(context.parentRunId !== undefined && { parentRunId: context.parentRunId }),
    ...(context.resume !== undefined && { resume: context.resume }),
    state: {},
    messages: convert(messages),
    tools: context.clientTools ?? [],
    context: [],
    forwardedProps,
    data: forwardedProps,
  }
}

const MEDIA = ['image', 'audio', 'video', 'document']

/** Messages with parts in AG-UI's form: text in `content`, tool calls beside it, each tool result as its own message. */
const toWire = (messages) => messages.flatMap((message) => (message.parts ? messageToWire(message) : [message]))

function messageToWire({ id, role, parts }) {
  const text = parts.map((part) => (part.type === 'text' ? part.content : '')).join('')
  const media = parts.filter((part) => MEDIA.includes(part.type))
  const content = media.length ? [...(text ? [{ type: 'text', text }] : []), ...media] : text
  const toolCalls = parts.filter((part) => part.type === 'tool-call').map(callToWire)
  return [{ id, role, content, ...(toolCalls.length && { toolCalls }) }, ...toolResults(parts)]
}

const callToWire = (call) => ({
  id: call.id,
  type: 'function',
  function: { name: call.name, arguments: call.arguments },
})

function toolResults(parts) {
  const outputs = new Map()
  for (const { type, id, output } of parts) if (type === 'tool-call' && output !== undefined) outputs.set(id, output)
  for (const { type, toolCallId, content } of parts) if (type === 'tool-result') outputs.set(toolCallId, content)
  return [...outputs].map(([toolCallId, output]) => ({
    role: 'tool',
    id: `tool-${toolCallId}`,
    toolCallId,
    content: typeof output === 'string' ? output : JSON.stringify(output),
  }))
}
