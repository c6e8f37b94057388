/**
 * The demo page: a chat over durable fetch, and a view of what happens underneath. Owns the page; the client is the one
 * that is shipped. Questions are kept in localStorage, for reloads and for other tabs. An answer is read from its
 * stream, and kept when it has ended.
 */
import { createDurableFetch } from '/static/client.js'
import { Answer } from './answer.js'
import { $, log, setState, showProgress, showStream } from './inspector.js'
import { Network } from './network.js'

const session = async () => (await fetch('/api/session')).json()
const { proxyUrl, api } = await session()
const network = new Network(log)
const durableFetch = createDurableFetch({
  proxyUrl,
  proxyAuthorization: async () => (await session()).token, // short-lived, from the application's own backend
  fetch: (url, init) => network.fetch(url, init),
  retry: { attempts: Infinity, baseDelay: 300, maxDelay: 1_500 },
})

// ── What is kept ──

const TURNS = 'demo:turns'
const DONE = 'demo:done'
const load = (key) => JSON.parse(localStorage.getItem(key) ?? '[]')
const save = (key, value) => localStorage.setItem(key, JSON.stringify(value))
const turnOf = (id) => load(TURNS).find((turn) => turn.id === id)
const notes = new Map() // turn id -> what this tab has read of its answer; other tabs have notes of their own

function update(id, change) {
  const turns = load(TURNS).map((turn) => (turn.id === id ? { ...turn, ...change } : turn))
  save(TURNS, turns)
}

function done(id) {
  save(DONE, [...new Set([...load(DONE), id])])
  $(id).classList.add('done')
}

// ── The conversation ──

let current = null // the Answer that is being read in this tab

function addItem(turn) {
  const item = document.createElement('li')
  item.id = turn.id
  item.innerHTML = '<p class="question"></p><div class="answer"></div><p class="turn-foot"></p>'
  $('turns').append(item)
  return item
}

function footnoteOf({ id, outcome, error }) {
  if (outcome === 'aborted') return 'Stopped. What had arrived stays.'
  return outcome === 'failed' ? error : notes.get(id)
}

function show(turn) {
  $('welcome').hidden = true
  const item = $(turn.id) ?? addItem(turn)
  const texts = { question: turn.question, answer: turn.answer, 'turn-foot': footnoteOf(turn) }
  for (const [name, text = ''] of Object.entries(texts)) {
    const node = item.querySelector(`.${name}`)
    if (node.textContent !== text) node.textContent = text // writing the same text would lose a selection in it
  }
  return item
}

async function ask(question) {
  const turn = { id: `turn-${Date.now()}`, question, outcome: null }
  save(TURNS, [...load(TURNS), turn])
  const body = { model: 'scripted', stream: true, messages: [{ role: 'user', content: question }] }
  await follow(turn, async (signal) => {
    network.creates = 0
    const response = await durableFetch(api, {
      method: 'POST',
      signal,
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
      requestId: turn.id,
    })
    update(turn.id, { calls: network.creates })
    return response
  })
}

/** Shows a turn's answer while it arrives. `open` is as in Answer.open. */
async function follow(turn, open) {
  const node = show(turn).querySelector('.answer')
  const answer = new Answer(turn, network)
  current = answer
  node.setAttribute('aria-busy', 'true')
  setBusy(true)
  setState('streaming')
  try {
    await answer.open(open)
    opened(answer.response)
    await answer.read(() => progress(answer, node))
    log('closed: complete', 'good')
  } catch (problem) {
    answer.fail(problem)
    log(`closed: ${problem.outcome ?? problem.message}`, 'bad')
  }
  if (answer.response) showAll(answer)
  current = null
  node.setAttribute('aria-busy', 'false')
  keep(answer)
  show(turnOf(turn.id) ?? turn)
  setBusy(false)
  setState(turnOf(turn.id)?.outcome ?? answer.outcome)
}

function opened(response) {
  const isReload = performance.getEntriesByType('navigation')[0]?.type === 'reload'
  if (response.wasResumed) log(`resumed ${response.streamId.slice(0, 8)}…`, 'good')
  if (response.wasResumed && isReload) done('try-reload')
  showStream(response)
}

function progress(answer, node) {
  const isAtEnd = innerHeight + scrollY > document.body.scrollHeight - 120
  node.textContent = answer.text
  if (isAtEnd) node.closest('li').scrollIntoView({ block: 'end' })
  setState(network.isCut ? 'reconnecting' : 'streaming')
  showAll(answer)
}

function showAll({ turn, response, bytes, segments }) {
  const calls = turnOf(turn.id)?.calls ?? 1
  showProgress({ offset: response.offset, bytes, segments, connections: network.reads, calls })
}

/** Keeps the end of an answer. Another tab may have kept one already; a failure here does not replace it. */
function keep({ turn, text, outcome, error, note }) {
  if (outcome === 'complete') notes.set(turn.id, note)
  const isKept = ['complete', 'aborted'].includes(turnOf(turn.id)?.outcome)
  if (!isKept || outcome !== 'failed') update(turn.id, { answer: text, outcome, error })
}

async function stop() {
  if (!current) return
  done('try-stop')
  try {
    if (current.response) return await current.response.abort()
    current.opening.abort() // the question has no answer yet; a resumed answer has a stream to stop
    await durableFetch.abort(current.turn.id)
  } catch (error) {
    log(`abort failed: ${error.message}`, 'bad')
  }
}

// ── Keys and buttons ──

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

function toggleNetwork() {
  if (network.isCut) {
    network.restore()
    done('try-offline')
  } else {
    network.cut()
    if (current) setState('reconnecting')
  }
  $('offline').setAttribute('aria-pressed', network.isCut)
  $('offline').textContent = network.isCut ? 'Restore the network' : 'Cut the network'
}

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
$('offline').addEventListener('click', toggleNetwork)
$('tab').addEventListener('click', () => done('try-tab'))
$('clear').addEventListener('click', () => {
  for (const { id } of load(TURNS)) durableFetch.forget(id)
  save(TURNS, [])
  location.reload()
})
$('copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText($('curl').textContent)
  $('copy').textContent = 'Copied'
  setTimeout(() => {
    $('copy').textContent = 'Copy'
  }, 1_500)
})

// ── When the page opens, and when another tab changes something ──

/** Shows every turn. An answer that is still being written is read again from its start; a finished one was kept. */
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
for (const { id, outcome } of load(TURNS)) {
  if (outcome !== null || durableFetch.stored(id)) continue
  $(id).querySelector('.turn-foot').textContent = 'The page was left before an answer came.'
}
$('turns').lastElementChild?.scrollIntoView({ block: 'end' })
focusPrompt()
