/**
 * The demo page: a chat over durable fetch, and a view of what happens underneath. Owns the page; the client is the
 * one that is shipped. What was asked is kept in localStorage, for reloads and for other tabs; what was answered is read
 * from its stream.
 */
import { EventStreamParser, IncompleteStreamError, createDurableFetch } from '/static/client.js'

const $ = (id) => document.getElementById(id)
const session = async () => (await fetch('/api/session')).json()
const { proxyUrl, api } = await session()

// ── The network, which this page can cut for itself ──

const network = { isCut: false, open: new Set(), connections: 0 }

/** fetch, but it fails while the network is cut, and what is open then breaks. Every request is shown. */
async function watchedFetch(url, init = {}) {
  const controller = new AbortController()
  init.signal?.addEventListener('abort', () => controller.abort(init.signal.reason))
  if (network.isCut) throw new TypeError('the network is cut')
  network.open.add(controller)
  const method = init.method ?? 'GET'
  const query = new URL(url).searchParams
  if (method === 'GET') network.connections++
  if (method === 'POST') update(current.turn.id, { calls: (current.turn.calls = (current.turn.calls ?? 0) + 1) })
  const offset = query.get('offset') === '-1' ? 'the start' : query.get('offset')
  const what = { GET: `from ${offset}`, PATCH: 'abort', POST: 'the question' }
  log(`${method} ${what[method]}`)
  const response = await fetch(url, { ...init, signal: controller.signal })
  if (method !== 'GET' || !response.ok) log(`${response.status} ${response.statusText}`, response.ok ? 'good' : 'bad')
  return response
}

function cutNetwork(isCut) {
  network.isCut = isCut
  $('offline').setAttribute('aria-pressed', isCut)
  $('offline').textContent = isCut ? 'Mend the network' : 'Cut the network'
  if (isCut) {
    for (const controller of network.open) controller.abort(new TypeError('the network is cut'))
    network.open.clear()
    log('the network is cut', 'bad')
    if (current) setState('reconnecting')
  } else {
    log('the network is back', 'good')
    window.dispatchEvent(new Event('online')) // what a browser says: the client need not wait for its next attempt
    done('try-offline')
  }
}

const durableFetch = createDurableFetch({
  proxyUrl,
  proxyAuthorization: async () => (await session()).token, // short-lived, from the application's own backend
  fetch: watchedFetch,
  retry: { attempts: Infinity, baseDelay: 300, maxDelay: 1_500 },
})

// ── What is kept ──

const TURNS = 'demo:turns'
const DONE = 'demo:done'
const load = (key) => JSON.parse(localStorage.getItem(key) ?? '[]')
const save = (key, value) => localStorage.setItem(key, JSON.stringify(value))
const update = (id, change) =>
  save(
    TURNS,
    load(TURNS).map((turn) => (turn.id === id ? { ...turn, ...change } : turn)),
  )

function done(id) {
  save(DONE, [...new Set([...load(DONE), id])])
  $(id).classList.add('done')
}

// ── The conversation ──

let current = null // the turn that is being read here

function show(turn) {
  $('welcome').hidden = true
  let item = $(turn.id)
  if (!item) {
    item = document.createElement('li')
    item.id = turn.id
    item.innerHTML = '<p class="question"></p><div class="answer"></div><p class="turn-foot"></p>'
    $('turns').append(item)
  }
  const footnotes = { aborted: 'Stopped. What had come stays.', failed: turn.error, complete: turn.note }
  const texts = { question: turn.question, answer: turn.answer, 'turn-foot': footnotes[turn.outcome] }
  for (const [name, text = ''] of Object.entries(texts)) {
    const node = item.querySelector(`.${name}`)
    if (node.textContent !== text) node.textContent = text // set anew, it would lose what is selected in it
  }
  return item
}

async function ask(question) {
  const turn = { id: `turn-${Date.now()}`, question, outcome: null }
  save(TURNS, [...load(TURNS), turn])
  await follow(turn, (signal) =>
    durableFetch(api, {
      method: 'POST',
      signal,
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ model: 'scripted', stream: true, messages: [{ role: 'user', content: question }] }),
      requestId: turn.id,
    }),
  )
}

/**
 * Shows a turn's answer as it comes. `open` takes a signal and gives the response; null means that there is none any
 * more.
 */
async function follow(turn, open) {
  const answer = show(turn).querySelector('.answer')
  const began = performance.now()
  network.connections = 0
  const segments = []
  const opening = new AbortController()
  current = { turn, response: null, opening }
  answer.setAttribute('aria-busy', 'true')
  setBusy(true)
  setState('streaming')
  let [text, bytes, outcome, error] = ['', 0, 'complete', undefined]
  try {
    const response = await open(opening.signal)
    if (!response) throw new Error('This answer is gone: it was read to its end in another tab, or it expired.')
    if (!response.ok) throw new Error(response.proxyError?.message || (await response.text()))
    current.response = response
    if (response.wasResumed) log(`resumed ${response.streamId.slice(0, 8)}…`, 'good')
    if (response.wasResumed && performance.getEntriesByType('navigation')[0]?.type === 'reload') done('try-reload')
    showStream(response)
    const [decoder, parser, reader] = [new TextDecoder(), new EventStreamParser(), response.body.getReader()]
    for (let part; !(part = await reader.read()).done;) {
      bytes += part.value.length
      segments[network.connections - 1] = (segments[network.connections - 1] ?? 0) + part.value.length
      for (const { data } of parser.push(decoder.decode(part.value, { stream: true })))
        if (data !== '[DONE]') text += JSON.parse(data).choices[0].delta.content ?? ''
      const isAtEnd = innerHeight + scrollY > document.body.scrollHeight - 120
      answer.textContent = text
      if (isAtEnd) answer.closest('li').scrollIntoView({ block: 'end' })
      setState('streaming')
      showProgress(response, bytes, segments)
    }
    showProgress(response, bytes, segments)
    log('closed: complete', 'good')
  } catch (problem) {
    const isStopped = opening.signal.aborted
    outcome = isStopped ? 'aborted' : problem instanceof IncompleteStreamError ? problem.outcome : 'failed'
    error = outcome === 'aborted' ? undefined : problem.message
    log(`closed: ${problem.outcome ?? problem.message}`, 'bad')
    if (!['aborted', 'failed'].includes(outcome)) outcome = 'failed'
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  const count = segments.filter(Boolean).length
  const note = `${bytes.toLocaleString('en')} bytes over ${count} connection${count === 1 ? '' : 's'} in ${seconds} s`
  current = null
  answer.setAttribute('aria-busy', 'false')
  update(turn.id, { answer: text, outcome, error, note })
  show({ ...turn, answer: text, outcome, error, note })
  setBusy(false)
  setState(outcome)
}

async function stop() {
  if (!current) return
  done('try-stop')
  try {
    if (current.response) return await current.response.abort()
    current.opening.abort() // a question that is still on its way; an answer that is taken up again has a stream
    await durableFetch.abort(current.turn.id)
  } catch (error) {
    log(`abort failed: ${error.message}`, 'bad')
  }
}

// ── The inspector ──

function setState(state) {
  const chip = $('outcome')
  const shown = network.isCut && current ? 'reconnecting' : state
  if (chip.dataset.state === shown) return
  chip.dataset.state = shown
  chip.textContent = shown
}

function setBusy(isBusy) {
  const focused = document.activeElement
  $('send').hidden = isBusy
  $('stop').hidden = !isBusy
  $('stop-too').disabled = !isBusy
  if (focused?.closest('[hidden], :disabled')) focusPrompt()
}

function focusPrompt() {
  if (matchMedia('(hover: hover)').matches) $('prompt').focus({ preventScroll: true }) // a phone would open its keyboard
}

function showStream({ streamId, streamUrl }) {
  $('fact-id').textContent = streamId
  $('fact-id').title = streamId
  $('curl').firstChild.textContent = `curl -N '${streamUrl}&offset=-1&live=sse'`
  $('copy').disabled = false
}

function showProgress({ offset }, bytes, segments) {
  $('fact-offset').textContent = offset === '-1' ? 'the start' : offset
  $('fact-bytes').textContent = bytes.toLocaleString('en')
  $('fact-connections').textContent = network.connections
  $('fact-calls').textContent = current.turn.calls ?? 1
  const tape = $('tape')
  const counts = segments.filter(Boolean)
  while (tape.childElementCount > counts.length) tape.lastChild.remove()
  while (tape.childElementCount < counts.length) tape.append(document.createElement('i'))
  counts.forEach((count, index) => (tape.children[index].style.flexGrow = count))
  tape.setAttribute('aria-label', `${bytes} bytes read over ${counts.length} connections`)
}

function log(text, kind = '') {
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

// ── Keys and buttons ──

$('composer').addEventListener('submit', (event) => {
  event.preventDefault()
  const question = $('prompt').value.trim()
  if (!question || current) return
  $('prompt').value = ''
  ask(question)
})
$('prompt').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
  event.preventDefault()
  $('composer').requestSubmit()
})
$('suggestions').addEventListener('click', ({ target }) => {
  if (target.matches('button') && !current) ask(target.textContent)
})
$('stop').addEventListener('click', stop)
$('stop-too').addEventListener('click', stop)
$('reload').addEventListener('click', () => location.reload())
$('offline').addEventListener('click', () => cutNetwork(!network.isCut))
$('tab').addEventListener('click', () => done('try-tab'))
$('clear').addEventListener('click', () => {
  for (const { id } of load(TURNS)) durableFetch.forget(id)
  save(TURNS, [])
  location.reload()
})
$('copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText($('curl').textContent)
  $('copy').textContent = 'Copied'
  setTimeout(() => ($('copy').textContent = 'Copy'), 1_500)
})

// ── Coming (back) to the page, and what other tabs do ──

/** An answer that is still being written is read again from its start; a finished one was kept. */
function catchUp() {
  for (const turn of load(TURNS)) {
    if (!$(turn.id)) show(turn)
    if (turn.outcome !== null || current) continue
    if (durableFetch.stored(turn.id)) follow(turn, (signal) => durableFetch.resume(turn.id, { signal }))
  }
}

window.addEventListener('storage', ({ key }) => {
  if (key === TURNS && !load(TURNS).length) return location.reload()
  catchUp()
  for (const turn of load(TURNS)) if (turn.outcome && turn.id !== current?.turn.id) show(turn)
})
for (const id of load(DONE)) $(id)?.classList.add('done')
setBusy(false)
catchUp()
for (const { id, outcome } of load(TURNS))
  if (outcome === null && !durableFetch.stored(id))
    $(id).querySelector('.turn-foot').textContent = 'The page was left before an answer came.'
$('turns').lastElementChild?.scrollIntoView({ block: 'end' })
focusPrompt()
