/** The reading of one answer in this tab: its text, its bytes, and the connections that they came over. */

import { EventStreamParser, IncompleteStreamError } from '/static/client.js'

export class Answer {
  #network
  #began = performance.now()
  #segments = [] // bytes for each connection, by its number
  #decoder = new TextDecoder()
  #parser = new EventStreamParser()

  constructor(turn, network) {
    network.reads = 0
    this.#network = network
    this.turn = turn
    this.opening = new AbortController() // ends a question that has no answer yet
    this.response = null
    this.text = ''
    this.bytes = 0
    this.outcome = null
    this.error = undefined
  }

  /** Opens the response. `open` takes a signal, and resolves with null if the answer is gone. */
  async open(open) {
    const response = await open(this.opening.signal)
    if (!response) throw new Error('This answer is gone: another tab has read it to its end, or it has expired.')
    if (!response.ok) throw new Error(response.proxyError?.message || (await response.text()))
    this.response = response
  }

  /** Reads the response to its end. Calls `onProgress` after each part. */
  async read(onProgress) {
    const reader = this.response.body.getReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      this.#take(value)
      onProgress()
    }
    this.outcome = 'complete'
  }

  #take(part) {
    const connection = this.#network.reads - 1
    this.bytes += part.length
    this.#segments[connection] = (this.#segments[connection] ?? 0) + part.length
    for (const { data } of this.#parser.push(this.#decoder.decode(part, { stream: true }))) {
      if (data !== '[DONE]') this.text += JSON.parse(data).choices[0].delta.content ?? ''
    }
  }

  /** Ends as `problem` says: an abort is an outcome, everything else a failure. */
  fail(problem) {
    const isStopped = this.opening.signal.aborted
    const outcome = problem instanceof IncompleteStreamError ? problem.outcome : 'failed'
    this.outcome = isStopped || outcome === 'aborted' ? 'aborted' : 'failed'
    if (this.outcome === 'failed') this.error = problem.message
  }

  get segments() {
    return this.#segments.filter(Boolean)
  }

  /** What this tab has read, in one line. */
  get note() {
    const seconds = ((performance.now() - this.#began) / 1000).toFixed(1)
    const count = this.segments.length
    return `${this.bytes.toLocaleString('en')} bytes over ${count} connection${count === 1 ? '' : 's'} in ${seconds} s`
  }
}
