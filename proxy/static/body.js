/** The body of a durable response. Internal. */

import { aborted, IncompleteStreamError, isGone } from './errors.js'

/** A body that pulls from readToEnd. Cancelling it, or `signal`, ends the reading and nothing else. */
export class DurableBody {
  #source
  #position
  #signal
  #reading
  #onMove
  #onEnd
  #onAbort

  /**
   * `reading` is the AbortController of `source`. `onMove` is called after each chunk, `onEnd` when the stream was read
   * to its end or cannot be read any more.
   */
  constructor({ source, position, signal, reading, onMove, onEnd }) {
    this.#source = source
    this.#position = position
    this.#signal = signal
    this.#reading = reading
    this.#onMove = onMove
    this.#onEnd = onEnd
  }

  start(controller) {
    this.#onAbort = () => {
      this.#reading.abort(aborted(this.#signal))
      controller.error(aborted(this.#signal))
    }
    if (this.#signal.aborted) this.#onAbort()
    else this.#signal.addEventListener('abort', this.#onAbort)
  }

  async pull(controller) {
    try {
      const { done, value } = await this.#source.next()
      if (!done) {
        this.#onMove()
        return controller.enqueue(value)
      }
      this.#onEnd()
      this.#release()
      const { outcome, bytesRead } = this.#position
      if (outcome !== 'complete') throw new IncompleteStreamError(outcome, bytesRead)
      controller.close()
    } catch (error) {
      if (isGone(error)) this.#onEnd()
      controller.error(error)
    }
  }

  cancel(reason) {
    this.#release()
    this.#reading.abort(reason)
  }

  #release() {
    this.#signal.removeEventListener('abort', this.#onAbort)
  }
}
