/** The right-hand column: the stream's state and numbers, and the log of requests. */

export const $ = (id) => document.getElementById(id)

export function setState(state) {
  const chip = $('outcome')
  if (chip.dataset.state === state) return
  chip.dataset.state = state
  chip.textContent = state
}

export function showStream({ streamId, streamUrl }) {
  $('fact-id').textContent = streamId
  $('fact-id').title = streamId
  $('curl').firstChild.textContent = `curl -N '${streamUrl}&offset=-1&live=sse'`
  $('copy').disabled = false
}

/** `segments`: bytes of the answer that came over each connection. */
export function showProgress({ offset, bytes, segments, connections, calls }) {
  $('fact-offset').textContent = offset === '-1' ? 'the start' : offset
  $('fact-bytes').textContent = bytes.toLocaleString('en')
  $('fact-connections').textContent = connections
  $('fact-calls').textContent = calls
  const tape = $('tape')
  while (tape.childElementCount > segments.length) tape.lastChild.remove()
  while (tape.childElementCount < segments.length) tape.append(document.createElement('i'))
  for (const [index, count] of segments.entries()) tape.children[index].style.flexGrow = count
  tape.setAttribute('aria-label', `${bytes} bytes read over ${segments.length} connections`)
}

export function log(text, kind = '') {
  const item = document.createElement('li')
  const time = document.createElement('time')
  const what = document.createElement('span')
  time.textContent = new Date().toLocaleTimeString('en-GB')
  what.textContent = text
  what.className = kind
  item.append(time, what)
  $('log').append(item)
  $('log').scrollTop = $('log').scrollHeight
}
