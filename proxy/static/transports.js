/**
 * Transports for chat SDKs, over durable fetch: `useChat` of the Vercel AI SDK (ai 6 and 7) and TanStack AI.
 *
 * Owns what the SDKs mean by stop, unmount, resume and join; the bytes are client.js's. No SDK is imported: each
 * transport has the shape that its SDK asks for. Types stand in transports.d.ts.
 */

import { EventStreamParser, IncompleteStreamError, createDurableFetch } from './client.js'

/**
 * How long (ms) a stop waits for a 201, whose stream it can abort; then the request itself is given up. The proxy needs
 * half a second to be sure that a client is gone, and a stop is to reach the upstream within one.
 */
const STOP_GRACE = 300

const abortError = () => new DOMException('The request was aborted', 'AbortError')
const macrotask = () => new Promise((resolve) => setTimeout(resolve))
const resolve = (value) => (typeof value === 'function' ? value() : value)
const entries = (headers) => (headers ? [...new Headers(headers)] : [])

const onceAborted = (signal, listener) => signal?.addEventListener('abort', listener, { once: true })

/** `promise`, or a rejection as soon as `signal` fires. */
function unlessAborted(promise, signal) {
  if (!signal) return promise
  return new Promise((settle, reject) => {
    const cancel = () => reject(abortError())
    onceAborted(signal, cancel)
    promise.then(settle, reject).finally(() => signal.removeEventListener('abort', cancel))
    if (signal.aborted) cancel()
  })
}

/** One call upstream, from before its 201 to the end of its stream. */
class Call {
  #cancel = new AbortController()

  /** `create` takes a signal and resolves with a durable response. */
  constructor(create) {
    this.response = null
    this.isOver = false
    this.created = create(this.#cancel.signal).then((response) => (this.response = response))
    this.created.catch(() => (this.isOver = true)) // whoever waits for it sees the failure
  }

  /**
   * Stops the upstream. Before the 201 only the stream's URL is missing, so it is waited for; an upstream that is
   * slow to begin is stopped by giving the request up: the proxy then drops its own.
   */
  async stop() {
    const created = this.created.catch(() => null)
    const waited = new Promise((settle) => setTimeout(settle, STOP_GRACE))
    const response = this.response ?? (await Promise.race([created, waited]))
    if (!response) this.giveUp()
    await (response ?? (await created))?.abort()
  }

  /** Ends the request (and the reading of its answer). */
  giveUp() {
    this.#cancel.abort(abortError())
  }
}

/** The JSON events of a server-sent event stream, one for each `next`, `[DONE]` left out. */
class JsonEvents {
  #reader
  #decoder = new TextDecoder()
  #parser = new EventStreamParser()
  #ready = []
  #isDone = false
  #isCancelled = false

  constructor(body) {
    this.#reader = body.getReader()
  }

  /** The next event, null at the end. Throws when the stream does, when it stops inside an event, or cancelled. */
  async next() {
    while (!this.#ready.length && !this.#isDone) {
      const { done, value } = await this.#reader.read()
      if (this.#isCancelled) throw abortError()
      this.#isDone = done
      const text = done ? `${this.#decoder.decode()}\n\n` : this.#decoder.decode(value, { stream: true })
      for (const { data } of this.#parser.push(text)) if (data !== '[DONE]') this.#ready.push(data)
    }
    return this.#ready.length ? JSON.parse(this.#ready.shift()) : null
  }

  /** Ends the reading, and nothing else. */
  cancel() {
    this.#isCancelled = true
    return this.#reader.cancel().catch(() => {})
  }
}

/** Throws what the proxy or the upstream said instead of an answer. */
async function ensureOk(response, fallback) {
  if (response.ok) return response
  const { code, message } = response.proxyError ?? {}
  const text = await response.text()
  throw Object.assign(new Error(message || text || fallback), { status: response.status, code: code ?? null })
}

// ── Vercel AI SDK ──

/** A `ChatTransport` for `useChat`. See transports.d.ts for the options, docs/clients.md for an example. */
export function createDurableChatTransport(options) {
  const { api = '/api/chat', getRequestId, abortOnStop = true } = options
  const durableFetch = createDurableFetch({ ...options, resumeFrom: 'start', autoResume: false }) // a send is a new call
  const chats = new Map() // chat id -> what happened to it in this page
  let lastChatId

  function chatOf(chatId) {
    if (!chats.has(chatId)) chats.set(chatId, { reconnects: 0, call: null, left: null })
    lastChatId = chatId
    return chats.get(chatId)
  }

  /** The application's own name for the conversation, where it has one. */
  function nameOf(messages) {
    try {
      return getRequestId?.(messages)
    } catch {
      return undefined // it looks into the messages, and a page that reconnects has none yet
    }
  }

  async function requestOf({ chatId, messages, trigger, messageId, headers, body, metadata }) {
    const [ownHeaders, ownBody] = await Promise.all([resolve(options.headers), resolve(options.body)])
    const request = {
      api,
      headers: Object.fromEntries([...entries(ownHeaders), ...entries(headers)]),
      body: { ...ownBody, ...body },
      credentials: await resolve(options.credentials),
    }
    const standard = { id: chatId, messages, trigger, messageId }
    const prepared = await options.prepareSendMessagesRequest?.({ ...request, ...standard, requestMetadata: metadata })
    return { ...request, body: { ...request.body, ...standard }, ...prepared }
  }

  async function sendMessages(message) {
    const { messages, abortSignal } = message
    const chatId = message.chatId ?? nameOf(messages) ?? 'default'
    if (abortSignal?.aborted) throw abortError()
    const chat = chatOf(chatId)
    const mark = chat.reconnects
    chat.left = null
    const call = new Call(async (signal) => {
      durableFetch.forget(chatId)
      const { api: url, headers, body, credentials } = await requestOf({ ...message, chatId })
      const alias = nameOf(messages)
      const response = await durableFetch(url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', ...headers },
        body: JSON.stringify(body),
        credentials,
        signal,
        requestId: chatId,
        alias: alias === chatId ? undefined : alias,
        // Without an id from upstream the SDK makes one up, and a replay would show the message a second time.
        note: { needsId: messages.at(-1)?.role === 'user' },
      })
      return ensureOk(response, 'Failed to fetch the chat response.')
    })
    chat.call = call
    onceAborted(abortSignal, () => stopUnlessReattached(chat, mark, () => call.stop()))
    return chunksOf(chat, await unlessAborted(call.created, abortSignal), abortSignal)
  }

  async function reconnectToStream({ chatId, abortSignal }) {
    if (abortSignal?.aborted) throw abortError()
    const chat = chatOf(chatId)
    const mark = ++chat.reconnects
    let response = null
    const stop = () => (response ? response.abort() : abort(chatId))
    onceAborted(abortSignal, () => stopUnlessReattached(chat, mark, stop))
    const find = async () => {
      await chat.call?.created.catch(() => {})
      response = await durableFetch.resume(chatId, { signal: abortSignal })
      const name = response ? undefined : nameOf([])
      if (name !== undefined) response = await durableFetch.resume(name, { signal: abortSignal })
    }
    await unlessAborted(find(), abortSignal)
    return response && chunksOf(chat, response, abortSignal)
  }

  /**
   * The SDK's signal means a stop, and in ai 7 also the unmounting of a component, which StrictMode does to every
   * one at once before it mounts it again: only a chat that nothing reconnected to meanwhile was really stopped.
   */
  async function stopUnlessReattached(chat, mark, stop) {
    chat.left = null
    await macrotask()
    if (abortOnStop && chat.reconnects === mark) await stop().catch(() => {})
  }

  /** Stops the upstream of a chat (of the one used last), whoever reads it. */
  async function abort(chatId = lastChatId) {
    const call = chats.get(chatId)?.call
    if (call && !call.isOver) await call.stop()
    else if (chatId !== undefined) await durableFetch.abort(chatId)
  }

  /** The chunks of an answer, one for each pull, so that what was delivered is known exactly. */
  function chunksOf(chat, response, signal) {
    const { streamId, note } = response
    const events = new JsonEvents(response.body)
    const skip = chat.left?.streamId === streamId ? chat.left.delivered : 0
    let met = 0
    let needsId = note?.needsId

    async function next() {
      for (let chunk; (chunk = await events.next());) {
        const isStart = needsId && chunk.type === 'start'
        if (isStart) needsId = false
        if (++met > skip) return isStart && !chunk.messageId ? { ...chunk, messageId: `msg-${streamId}` } : chunk
      }
      return null
    }

    function over() {
      if (chat.call?.response?.streamId === streamId) chat.call.isOver = true
    }

    return new ReadableStream(
      {
        start(controller) {
          onceAborted(signal, () => {
            controller.error(abortError())
            events.cancel()
          })
        },
        async pull(controller) {
          try {
            const chunk = await next()
            if (chunk) return controller.enqueue(chunk)
            over()
            controller.close()
          } catch (error) {
            if (error instanceof IncompleteStreamError) over()
            if (error.outcome === 'aborted') {
              controller.enqueue({ type: 'abort' })
              return controller.close()
            }
            // After a disconnect this page goes on behind the last chunk: the SDK has kept what it made of the others.
            if (error instanceof TypeError) chat.left = { streamId, delivered: Math.max(met, skip) }
            controller.error(error)
          }
        },
        cancel() {
          chat.left = null
          return events.cancel()
        },
      },
      { highWaterMark: 0 },
    )
  }

  return { sendMessages, reconnectToStream, abort, send: sendMessages, resumeStreamIsReplay: true }
}

// ── TanStack AI ──

/** A connection adapter for TanStack AI. See transports.d.ts for the options, docs/clients.md for an example. */
export function createDurableAdapter(apiUrl, options) {
  const { getRequestId, abortOnStop = false } = options
  const durableFetch = createDurableFetch({ ...options, resumeFrom: 'start' })
  const runs = new Map() // run id -> {call, joins}: the runs of this page
  let last = null // {call} or {requestId}: what abort() without an id means

  async function post(url, { headers, body, ...init }) {
    const own = entries(await resolve(options.headers))
    const all = { 'Content-Type': 'application/json', ...Object.fromEntries([...own, ...entries(headers)]) }
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const response = await durableFetch(url ?? resolve(apiUrl), { method: 'POST', headers: all, body: text, ...init })
    return ensureOk(response, 'The request failed.')
  }

  /** The promise form: one request, its bytes as they are. */
  async function open({ url, body, headers, signal }) {
    const requestId = getRequestId?.(body?.messages ?? [], body)
    const call = new Call((given) => post(url, { headers, body, requestId, signal: given }))
    onceAborted(signal, () => call.giveUp())
    last = { call }
    const response = await call.created
    const { streamId, streamUrl, wasResumed } = response
    return { stream: response.body, response, streamId, streamUrl, wasResumed }
  }

  async function* run(messages, data, signal, context = {}) {
    if (signal?.aborted) return
    const threadId = context.threadId ?? getRequestId?.(messages, data) ?? 'default'
    const runId = context.runId ?? `run-${crypto.getRandomValues(new Uint32Array(2)).join('-')}`
    const call = new Call(async (given) => {
      const body = runInput(messages, data, { ...context, threadId, runId }, await resolve(options.body))
      const names = { requestId: `run:${runId}`, alias: `thread:${threadId}`, note: { runId } }
      return post(undefined, { headers: context.headers, body, signal: given, ...names })
    })
    runs.set(runId, { call, joins: 0 })
    last = { call }
    yield* attached(runId, () => call.created, signal)
  }

  async function* joinRun(runId, signal) {
    if (signal?.aborted) return
    if (!runs.has(runId)) runs.set(runId, { call: null, joins: 0 })
    const entry = runs.get(runId)
    entry.joins++
    last = entry.call ? entry : { requestId: `run:${runId}` }
    yield* attached(runId, find, signal)

    async function find() {
      await entry.call?.created.catch(() => {})
      const response = await durableFetch.resume(`run:${runId}`, { signal }).catch((error) => {
        // The SDK forgets a run whose join is refused, but not one that timed out; being offline proves nothing.
        throw error instanceof TypeError ? Object.assign(error, { name: 'TimeoutError' }) : error
      })
      if (!response) throw new Error(`run ${runId} is not known here, or was read to its end`)
      return response
    }
  }

  /** The chunks of a run for as long as `signal` lets it be read: it means "disconnect", which leaves the run alone. */
  async function* attached(runId, find, signal) {
    const entry = runs.get(runId)
    const mark = entry.joins
    let events
    onceAborted(signal, async () => {
      events?.cancel()
      await macrotask()
      if (abortOnStop && entry.joins === mark) await abort(runId).catch(() => {})
    })
    try {
      const response = await unlessAborted(find(), signal)
      events = new JsonEvents(response.body)
      for (let chunk; (chunk = await unlessAborted(events.next(), signal));) yield chunk
      runs.delete(runId)
    } catch (error) {
      if (signal?.aborted) return
      if (error instanceof IncompleteStreamError) runs.delete(runId)
      if (error.outcome !== 'aborted') throw error
    } finally {
      events?.cancel()
      if (!runs.has(runId) && entry.call) entry.call.isOver = true
    }
  }

  async function hydrate(threadId, page) {
    const known = await options.hydrate?.(threadId, page)
    const runId = durableFetch.stored(`thread:${threadId}`)?.note.runId
    return { messages: [], interrupts: null, activeRun: runId ? { runId } : null, ...known }
  }

  async function abort(runId) {
    const { call, requestId } = runId === undefined ? (last ?? {}) : { ...runs.get(runId), requestId: `run:${runId}` }
    if (call) await (call.isOver || call.stop())
    else if (requestId) await durableFetch.abort(requestId)
  }

  return {
    connect: (...args) => (Array.isArray(args[0]) ? run(...args) : open(args[0])),
    joinRun,
    hydrate,
    abort,
  }

  /** AG-UI's RunAgentInput. `toWire` may be TanStack's own `uiMessagesToWire`; ours keeps text, tools and media. */
  function runInput(messages, data, context, ownBody) {
    const forwardedProps = { ...ownBody, ...context.forwardedProps, ...data }
    return {
      threadId: context.threadId,
      runId: context.runId,
      ...(context.parentRunId !== undefined && { parentRunId: context.parentRunId }),
      ...(context.resume !== undefined && { resume: context.resume }),
      state: {},
      messages: (options.toWire ?? toWire)(messages),
      tools: context.clientTools ?? [],
      context: [],
      forwardedProps,
      data: forwardedProps,
    }
  }
}

/** Messages with parts as AG-UI's: text in `content`, tool calls beside it, each tool's result a message of its own. */
function toWire(messages) {
  return messages.flatMap((message) => {
    if (!message.parts) return [message]
    const { parts, id, role } = message
    const text = parts
      .filter((part) => part.type === 'text')
      .map((part) => part.content)
      .join('')
    const media = parts.filter((part) => ['image', 'audio', 'video', 'document'].includes(part.type))
    const calls = parts.filter((part) => part.type === 'tool-call')
    const content = media.length ? [...(text ? [{ type: 'text', text }] : []), ...media] : text
    const toolCalls = calls.map((call) => ({
      id: call.id,
      type: 'function',
      function: { name: call.name, arguments: call.arguments },
    }))
    const results = new Map(calls.filter((call) => call.output !== undefined).map((call) => [call.id, call.output]))
    for (const part of parts) if (part.type === 'tool-result') results.set(part.toolCallId, part.content)
    const fanOut = [...results].map(([toolCallId, output]) => ({
      role: 'tool',
      id: `tool-${toolCallId}`,
      toolCallId,
      content: typeof output === 'string' ? output : JSON.stringify(output),
    }))
    return [{ id, role, content, ...(toolCalls.length && { toolCalls }) }, ...fanOut]
  })
}
