/** Server-sent events from text (WHATWG HTML section 9.2). `id` and `retry` fields are ignored. */

/** Text in any pieces to server-sent events `{event, data}`. */
export class EventStreamParser {
  #rest = ''
  #endsInCR = false
  #event = ''
  #data = null

  /** The events that `text` completes. A line that comes in many pieces is examined once, at its end. */
  push(text) {
    const isInsideLine = text === '' || !(this.#endsInCR || /[\r\n]/.test(text))
    if (isInsideLine) {
      this.#rest += text
      return []
    }
    this.#endsInCR = text.endsWith('\r')
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/) // a final CR may be half of a CRLF
    this.#rest = lines.pop()
    const events = []
    for (const line of lines) {
      if (line === '') this.#dispatch(events)
      else this.#field(line)
    }
    return events
  }

  #dispatch(events) {
    if (this.#data !== null) events.push({ event: this.#event || 'message', data: this.#data })
    this.#event = ''
    this.#data = null
  }

  #field(line) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line)
    if (field === 'data') this.#data = this.#data === null ? value : `${this.#data}\n${value}`
    else if (field === 'event') this.#event = value
  }
}
