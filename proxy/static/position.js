/** Where the reading of a stream stands. Internal. */

/** The offset before the first byte. */
export const START = '-1'

/**
 * Where reading stands: `skip` bytes after `offset`, the last place that storage has named. Offsets are opaque, so
 * after a cut the bytes since `offset` are read again, and as many as were delivered are dropped.
 */
export class Position {
  #seen = 0 // bytes received after `offset` in this attempt

  constructor(offset = START, skip = 0) {
    this.offset = offset
    this.skip = skip
    this.cursor = null
    this.closed = false
    this.needsOutcome = false // the stream is closed, but the closing event did not say how it ended
    this.outcome = null
    this.bytesRead = 0
    this.marks = 0 // how often storage has named a place
  }

  /** A new attempt begins at `offset`. */
  restart() {
    this.#seen = 0
  }

  /** The part of `bytes` that is new, which now counts as delivered. Null if none is. */
  take(bytes) {
    const known = Math.max(0, this.skip - this.#seen)
    this.#seen += bytes.length
    if (known >= bytes.length) return null
    this.skip = this.#seen
    this.bytesRead += bytes.length - known
    return known ? bytes.subarray(known) : bytes
  }

  /** Everything received so far lies before `offset`. */
  reach(offset) {
    this.offset = offset
    this.skip = Math.max(0, this.skip - this.#seen)
    this.#seen = 0
    this.marks++
  }

  /** The end of the stream was reached. */
  close(outcome) {
    this.closed = true
    this.outcome = outcome
  }
}
