/** `python -m proxy demo` as a visitor meets it, its Content-Security-Policy in force. */
import assert from 'node:assert/strict'
import { after, before } from 'node:test'
import { browserTest, launch, start } from './harness.js'

const world = {}
before(async () => {
  world.proxy = await start('demo', '--port', '0', '--no-open')
  world.app = world.proxyUrl = world.proxy.url
  world.browser = await launch()
})
after(async () => {
  await world.browser?.close()
  await world.proxy?.stop()
})

const it = (name, body) => browserTest(world, `demo: ${name}`, body)

/** Asks, and waits until the answer is longer than `length` characters. */
async function ask(page, length = 40) {
  await page.fill('#prompt', 'How does it work?')
  await page.keyboard.press('Enter')
  await grown(page, length)
}
const grown = (page, length) =>
  page.waitForFunction((least) => document.querySelector('.answer')?.textContent.length > least, length)
const state = (page, wanted) =>
  page.waitForFunction((text) => document.querySelector('#outcome').textContent === text, wanted)
const fact = (page, name) => page.textContent(`#fact-${name}`)

it('an answer survives a reload and a cut network, is called once, and is whole', async (visit) => {
  const { page } = await visit.open('')
  await ask(page)
  await page.click('#reload')
  await grown(page, 80)
  await page.click('#offline')
  await state(page, 'reconnecting')
  await page.click('#offline')
  await state(page, 'complete')
  assert.match(await page.textContent('.answer'), /^A durable stream is a log.*stays readable\.\s*$/s)
  assert.equal(await fact(page, 'calls'), '1')
  assert.ok(Number(await fact(page, 'connections')) >= 2)
  assert.equal(await page.$$eval('.tries .done', (nodes) => nodes.length), 2)
  assert.deepEqual(visit.console, [])
})

it('a second tab shows the same answer, and stop ends it in both', async (visit) => {
  const first = (await visit.open('')).page
  await ask(first)
  const [second] = await Promise.all([visit.context.waitForEvent('page'), first.click('#tab')])
  await grown(second, 60)
  await second.click('#stop')
  for (const page of [first, second]) await state(page, 'aborted')
  assert.equal(await first.textContent('.answer'), await second.textContent('.answer'))
  assert.deepEqual(visit.console, [])
})

it('two tabs that read one answer have a note each, about what they read themselves', async (visit) => {
  const first = (await visit.open('')).page
  await ask(first)
  const second = (await visit.open('')).page
  await grown(second, 80)
  await first.click('#offline')
  await state(first, 'reconnecting')
  await first.click('#offline')
  for (const page of [first, second]) await state(page, 'complete')
  const noteOf = (page) => page.textContent('.turn-foot')
  assert.match(await noteOf(first), /^[\d,]+ bytes over 2 connections in [\d.]+ s$/)
  assert.match(await noteOf(second), /^[\d,]+ bytes over 1 connection in [\d.]+ s$/)
  const third = (await visit.open('')).page
  assert.equal(await third.textContent('.answer'), await first.textContent('.answer'))
  assert.equal(await noteOf(third), '')
  assert.match(await noteOf(first), / 2 connections /, 'nothing that another tab does changes it')
})

it('a tab that comes too late for an answer shows what another tab has kept', async (visit) => {
  const first = (await visit.open('')).page
  await ask(first)
  const second = await visit.context.newPage()
  const gone = JSON.stringify({ error: { code: 'STREAM_NOT_FOUND', message: 'there is no such stream' } })
  await second.route('**/v1/proxy/*', async (route) => {
    await state(first, 'complete')
    await route.fulfill({ status: 404, headers: { 'Access-Control-Allow-Origin': '*' }, body: gone })
  })
  await second.goto(visit.world.app)
  await state(second, 'complete')
  for (const page of [first, second]) {
    assert.match(await page.textContent('.answer'), /stays readable\.\s*$/)
    assert.doesNotMatch(await page.textContent('.turn-foot'), /gone/)
  }
})

it('after a stop, the offset and the bytes that are shown are those of the end', async (visit) => {
  const { page } = await visit.open('')
  await ask(page)
  await page.click('#stop')
  await state(page, 'aborted')
  const bytes = Number((await fact(page, 'bytes')).replace(',', ''))
  assert.equal(Number((await fact(page, 'offset')).split('_')[1]), bytes)
})

it('the curl command reads the same answer', async (visit) => {
  const { page } = await visit.open('')
  await ask(page)
  await page.click('#stop-too')
  await state(page, 'aborted')
  const url = /'(.*)'/.exec(await page.textContent('#curl'))[1]
  const text = await (await fetch(url.replace('&live=sse', ''))).text()
  assert.match(text, /^data: \{"choices"/)
  assert.equal(String(new TextEncoder().encode(text).length), (await fact(page, 'bytes')).replace(',', ''))
})

it('everything can be reached and used by keyboard, and nothing is wider than a phone', async (visit) => {
  const { page } = await visit.open('')
  await page.setViewportSize({ width: 390, height: 844 })
  const reached = new Set()
  for (let count = 0; count < 20; count++) {
    await page.keyboard.press('Tab')
    reached.add(await page.evaluate(() => document.activeElement.id))
  }
  for (const id of ['prompt', 'send', 'reload', 'offline', 'tab', 'clear']) assert.ok(reached.has(id), id)
  await ask(page)
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390)
  const unnamed = await page.$$eval('button, a, input, textarea', (nodes) =>
    nodes.filter((node) => !node.textContent.trim() && !node.labels?.length).map((node) => node.outerHTML),
  )
  assert.deepEqual(unnamed, [])
})

it('a keyboard keeps its place when the button under it goes, and a finished answer is announced', async (visit) => {
  const { page } = await visit.open('')
  const hasFocus = (id) => page.waitForFunction((wanted) => document.activeElement.id === wanted, id)
  await page.focus('#suggestions button')
  await page.keyboard.press('Enter')
  await grown(page, 10)
  await hasFocus('prompt')
  assert.equal(await page.getAttribute('.answer', 'aria-busy'), 'true')
  await page.focus('#stop')
  await page.keyboard.press('Enter')
  await state(page, 'aborted')
  await hasFocus('prompt')
  assert.equal(await page.getAttribute('.answer', 'aria-busy'), 'false')
  assert.ok(await page.$('[aria-live=polite] .answer'))
  await page.fill('#prompt', 'And now?')
  await page.focus('#send')
  await page.keyboard.press('Space')
  await hasFocus('prompt')
})

it('what is selected in one tab stays selected while another one asks', async (visit) => {
  const first = (await visit.open('')).page
  await ask(first)
  await first.click('#stop')
  await state(first, 'aborted')
  const second = (await visit.open('')).page
  await second.waitForSelector('.answer')
  await second.evaluate(() => getSelection().selectAllChildren(document.querySelector('.answer')))
  await first.fill('#prompt', 'And now?')
  await first.keyboard.press('Enter')
  await second.waitForFunction(() => document.querySelectorAll('.answer')[1]?.textContent.length > 40)
  assert.match(await second.evaluate(() => String(getSelection())), /^A durable stream is a log/)
})

it('stop before the answer has begun stops, and a page that is left then says so', async (visit) => {
  const { page } = await visit.open('')
  let onAsked
  await page.route('**/v1/proxy', () => onAsked()) // and never goes on
  for (const leave of [() => page.click('#stop'), () => page.reload()]) {
    const asked = new Promise((resolve) => (onAsked = resolve))
    await page.fill('#prompt', 'How does it work?')
    await page.keyboard.press('Enter')
    await asked
    await leave()
    await page.waitForFunction(() => document.querySelector('li:last-child > .turn-foot').textContent)
    assert.equal(await page.isVisible('#send'), true)
  }
  const notes = await page.$$eval('.turn-foot', (nodes) => nodes.map((node) => node.textContent))
  assert.deepEqual(notes, ['Stopped. What had arrived stays.', 'The page was left before an answer came.'])
})

it('New chat forgets everything', async (visit) => {
  const { page } = await visit.open('')
  await ask(page)
  await page.click('#stop')
  await state(page, 'aborted')
  await page.click('#clear')
  await page.waitForSelector('#welcome:not([hidden])')
  assert.equal(await page.$$eval('.answer', (nodes) => nodes.length), 0)
})
