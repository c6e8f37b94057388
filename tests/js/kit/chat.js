/** What the unit tests of the chat transports share: streams of JSON events, and the events of an answer as an array. */
import { FakeStream } from './fake-proxy.js'

export const USER = { id: 'u1', role: 'user', parts: [{ type: 'text', text: 'hi' }] }

export const sse = (...chunks) =>
  chunks.map((chunk) => `data: ${typeof chunk === 'string' ? chunk : JSON.stringify(chunk)}\n\n`)

/** The stream that the next creates of `proxy` lead to; it begins with `chunks`. */
export function openStream(proxy, ...chunks) {
  const stream = proxy.add(new FakeStream({ contentType: 'text/event-stream' }).append(...sse(...chunks)))
  proxy.makeStream = () => stream
  return stream
}

export async function all(iterable) {
  const chunks = []
  for await (const chunk of iterable) chunks.push(chunk)
  return chunks
}
