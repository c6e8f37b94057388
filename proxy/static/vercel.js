/**
 * A chat transport for `useChat` of the Vercel AI SDK (ai 6 and 7), over durable fetch.
 *
 * Owns what the SDK means by stop, unmount and resume. The SDK is not imported: the transport has the shape that it
 * expects. Types are in vercel.d.ts.
 */

import {
  abortError,
  Call,
  ensureOk,
  entries,
  JsonEvents,
  macrotask,
  onceAborted,
  resolve,
  unlessAborted,
} from './chat.js'
import { createDurableFetch, IncompleteStreamError } from './client.js'

/** A `ChatTransport` for `useChat`. See vercel.d.ts for the options, docs/clients.md for an example. */
export function createDurableChatTransport(options) {
  const chats = new Chats(options)
  const sendMessages = (message) => chats.send(message)
  return {
    sendMessages,
    send: sendMessages,
    reconnectToStream: (request) => chats.reconnect(request),
    abort: (chatId) => chats.abort(chatId),
    resumeStreamIsReplay: true,
  }
}

/** The chats of one page. */
class Chats {
  #options
  #fetch
  #chats = new Map() // chat id -> {reconnects, call, left}, see #chat
  #lastChatId

  constructor(options) {
    this.#options = options
    this.#fetch = createDurableFetch({ ...options, resumeFrom: 'start', autoResume: false }) // each send is a new call
  }

  /**
   * What happened to a chat in this page: how often the SDK reconnected, the newest call, and how much of a stream the
   * SDK has when it lost its connection (`{streamId, delivered}`, in chunks).
   */
  #chat(chatId) {
    if (!this.#chats.has(chatId)) this.#chats.set(chatId, { reconnects: 0, call: null, left: null })
    this.#lastChatId = chatId
    return this.#chats.get(chatId)
  }

  /** The application's own name for the conversation, if it has one. */
  #nameOf(messages) {
    try {
      return this.#options.getRequestId?.(messages)
    } catch {
      return undefined // it reads the messages, and a page that reconnects has none yet
    }
  }

  async send(message) {
    const { messages, abortSignal } = message
    const chatId = message.chatId ?? this.#nameOf(messages) ?? 'default'
    if (abortSignal?.aborted) throw abortError()
    const chat = this.#chat(chatId)
    const mark = chat.reconnects
    chat.left = null
    const call = new Call((signal) => this.#create({ ...message, chatId }, signal))
    chat.call = call
    onceAborted(abortSignal, () => this.#stopUnlessReconnected(chat, mark, () => call.stop()))
    return chunks(chat, await unlessAborted(call.created, abortSignal), abortSignal)
  }

  async #create(message, signal) {
    const { chatId, messages } = message
    this.#fetch.forget(chatId)
    const { api, headers, body } = await this.#requestOf(message)
    const alias = this.#nameOf(messages)
    const response = await this.#fetch(api, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body: JSON.stringify(body),
      signal,
      requestId: chatId,
      alias: alias === chatId ? undefined : alias,
      // Without an id from the upstream the SDK makes one up, and a replay would show the message a second time.
      note: { needsId: messages.at(-1)?.role === 'user' },
    })
    return ensureOk(response, 'Failed to fetch the chat response.')
  }

  async #requestOf({ chatId, messages, trigger, messageId, headers, body, metadata }) {
    const { api = '/api/chat', prepareSendMessagesRequest } = this.#options
    const [ownHeaders, ownBody] = await Promise.all([resolve(this.#options.headers), resolve(this.#options.body)])
    const request = {
      api,
      headers: Object.fromEntries([...entries(ownHeaders), ...entries(headers)]),
      body: { ...ownBody, ...body },
      credentials: await resolve(this.#options.credentials),
    }
    const standard = { id: chatId, messages, trigger, messageId }
    const prepared = await prepareSendMessagesRequest?.({ ...request, ...standard, requestMetadata: metadata })
    return { ...request, body: { ...request.body, ...standard }, ...prepared }
  }

  async reconnect({ chatId, abortSignal }) {
    if (abortSignal?.aborted) throw abortError()
    const chat = this.#chat(chatId)
    chat.reconnects++
    const mark = chat.reconnects
    let response = null
    const stop = () => (response ? response.abort() : this.abort(chatId))
    onceAborted(abortSignal, () => this.#stopUnlessReconnected(chat, mark, stop))
    const find = async () => {
      await chat.call?.created.catch(() => {})
      response = await this.#find(chatId, abortSignal)
    }
    await unlessAborted(find(), abortSignal)
    return response && chunks(chat, response, abortSignal)
  }

  async #find(chatId, signal) {
    const response = await this.#fetch.resume(chatId, { signal })
    const name = response ? undefined : this.#nameOf([])
    return name === undefined ? response : this.#fetch.resume(name, { signal })
  }

  /**
   * The SDK's signal means a stop. In ai 7 it also means that a component unmounts, which StrictMode does to every
   * component before it mounts it again. So a chat counts as stopped only if nothing has reconnected to it one
   * macrotask later.
   */
  async #stopUnlessReconnected(chat, mark, stop) {
    chat.left = null
    await macrotask()
    const { abortOnStop = true } = this.#options
    if (abortOnStop && chat.reconnects === mark) await stop().catch(() => {})
  }

  /** Stops the upstream of a chat (default: the chat used last). */
  async abort(chatId = this.#lastChatId) {
    const call = this.#chats.get(chatId)?.call
    if (call && !call.isOver) await call.stop()
    else if (chatId !== undefined) await this.#fetch.abort(chatId)
  }
}

/** The chunks of an answer as the SDK reads them. */
const chunks = (chat, response, signal) =>
  new ReadableStream(new ChunkSource(chat, response, signal), { highWaterMark: 0 })

/** The source of a ReadableStream of chunks. It delivers one chunk per pull, so that the number delivered is exact. */
class ChunkSource {
  #chat
  #streamId
  #signal
  #events
  #needsId
  #skip // chunks that this page has already
  #met = 0 // chunks seen in this response

  constructor(chat, response, signal) {
    const { streamId, note, body } = response
    this.#chat = chat
    this.#streamId = streamId
    this.#signal = signal
    this.#events = new JsonEvents(body)
    this.#needsId = note?.needsId
    this.#skip = chat.left?.streamId === streamId ? chat.left.delivered : 0
  }

  start(controller) {
    onceAborted(this.#signal, () => {
      controller.error(abortError())
      this.#events.cancel()
    })
  }

  async pull(controller) {
    try {
      const { done, value } = await this.#next()
      if (!done) return controller.enqueue(value)
      this.#markOver()
      controller.close()
    } catch (error) {
      this.#fail(controller, error)
    }
  }

  cancel() {
    this.#chat.left = null
    return this.#events.cancel()
  }

  async #next() {
    for (;;) {
      const { done, value } = await this.#events.next()
      if (done) return { done, value }
      const isStart = this.#needsId && value?.type === 'start'
      if (isStart) this.#needsId = false
      this.#met++
      if (this.#met <= this.#skip) continue
      const needsId = isStart && !value.messageId
      return { done, value: needsId ? { ...value, messageId: `msg-${this.#streamId}` } : value }
    }
  }

  #fail(controller, error) {
    if (error instanceof IncompleteStreamError) this.#markOver()
    if (error.outcome === 'aborted') {
      controller.enqueue({ type: 'abort' })
      return controller.close()
    }
    // The SDK keeps what it was given, so after a disconnect this page goes on after the last chunk.
    if (error instanceof TypeError) {
      this.#chat.left = { streamId: this.#streamId, delivered: Math.max(this.#met, this.#skip) }
    }
    controller.error(error)
  }

  #markOver() {
    const { call } = this.#chat
    if (call?.response?.streamId === this.#streamId) call.isOver = true
  }
}
