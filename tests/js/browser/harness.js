/**
 * What browser tests share: a real proxy process, an upstream that does what the test says, an application server
 * that serves the pages, and Debian's Chromium. Every wait is for an event; each has the runner's time-out above it.
 */
import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { chromium } from 'playwright-core'
import { HttpPeer, listen } from '../kit/http-peer.js'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const ROOT = here('../../../')
const SECRET = 'browser-test-secret-browser-test-secret'
const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser'].find(existsSync)
const PAGES = {
  'ai-6': { page: 'vercel.jsx', alias: { '@ai-sdk/react': '@ai-sdk/react-3' } },
  'ai-7': { page: 'vercel.jsx', alias: { '@ai-sdk/react': '@ai-sdk/react-4' } },
  tanstack: { page: 'tanstack.jsx', alias: {} },
  'docs-fetch': { page: 'docs-fetch.js', alias: {} },
  'docs-vercel': { page: 'docs-vercel.jsx', alias: { '@ai-sdk/react': '@ai-sdk/react-4' } },
  'docs-tanstack': { page: 'docs-tanstack.jsx', alias: {} },
}

/** The examples of docs/clients.md by name, as they stand there. */
export const EXAMPLES = Object.fromEntries(
  [...readFileSync(`${ROOT}docs/clients.md`, 'utf8').matchAll(/^<!-- example: (\S+) -->\n```\w+\n(.*?)^```/gms)].map(
    ([, name, code]) => [name, code],
  ),
)

/** One request that reached the upstream; the test answers it. */
class Call {
  constructor(request, response, body) {
    this.headers = request.headers
    this.body = body
    this.response = response
    this.isClosed = false
    this.closed = new Promise((resolve) => response.once('close', resolve)).then(() => (this.isClosed = true))
  }
  /** Server-sent events, one for each chunk. */
  send(...chunks) {
    if (!this.response.headersSent) this.response.writeHead(200, { 'Content-Type': 'text/event-stream' })
    for (const chunk of chunks)
      this.response.write(`data: ${typeof chunk === 'string' ? chunk : JSON.stringify(chunk)}\n\n`)
    return this
  }
  end() {
    this.response.end()
    return this
  }
  /** Breaks off, against the framing. */
  breakOff() {
    this.response.socket.resetAndDestroy()
  }
}

/** The model behind the proxy. `upstream.next()` resolves with the next Call, in their order. */
class Upstream {
  calls = []
  #waiting = []
  #taken = 0

  handle(request, response, body) {
    const call = new Call(request, response, JSON.parse(body))
    this.calls.push(call)
    this.#waiting.shift()?.()
  }
  async next() {
    const index = this.#taken++
    while (!this.calls[index]) await new Promise((resolve) => this.#waiting.push(resolve))
    return this.calls[index]
  }
}

/** The network between browser and proxy: a relay that can be cut, and lets nothing pass until it is mended. */
class Network {
  #sockets = new Set()
  isUp = true

  constructor(target) {
    const { hostname, port } = new URL(target)
    this.server = createTcpServer((near) => {
      if (!this.isUp) return near.resetAndDestroy()
      const far = connect(port, hostname)
      for (const [from, to] of [
        [near, far],
        [far, near],
      ]) {
        this.#sockets.add(from)
        from.pipe(to)
        from.on('error', () => {})
        from.on('close', () => {
          this.#sockets.delete(from)
          to.destroy()
        })
      }
    })
  }
  cut() {
    this.isUp = false
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }
  mend() {
    this.isUp = true
  }
}

const encode = (value) => Buffer.from(value).toString('base64url')

/** A service JWT for a minute: what the application's own backend gives its pages. */
function mint() {
  const signed = `${encode('{"alg":"HS256","typ":"JWT"}')}.${encode(JSON.stringify({ exp: Math.floor(Date.now() / 1000) + 60 }))}`
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`
}

/** Imports `docs:{name}`: an example of the documentation, pointed at the servers of this test. */
const documentation = (world) => ({
  name: 'documentation',
  setup(build) {
    build.onResolve({ filter: /^docs:/ }, ({ path }) => ({ path: path.slice(5), namespace: 'docs' }))
    build.onLoad({ filter: /.*/, namespace: 'docs' }, ({ path }) => ({
      contents: EXAMPLES[path]
        .replace('https://api.example.com/chat', world.api)
        .replace('https://proxy.example.com', world.proxyUrl),
      loader: 'jsx',
      resolveDir: here('.'),
    }))
  },
})

async function bundle(world) {
  const outputs = {}
  const client = (name) => here(`../../../proxy/static/${name}.js`)
  const ours = {
    'durable-streams-proxy-client/vercel': client('vercel'),
    'durable-streams-proxy-client/tanstack': client('tanstack'),
    'durable-streams-proxy-client': client('client'),
  }
  for (const [name, { page, alias }] of Object.entries(PAGES)) {
    const { outputFiles } = await build({
      entryPoints: [here(`pages/${page}`)],
      bundle: true,
      write: false,
      format: 'esm',
      jsx: 'automatic',
      alias: { ...ours, ...alias },
      nodePaths: [here('../../node_modules')],
      plugins: [documentation(world)],
      define: { 'process.env.NODE_ENV': '"development"' }, // StrictMode mounts twice in development only
      logLevel: 'error',
    })
    outputs[name] = outputFiles[0].text
  }
  return outputs
}

/** Runs `python -m proxy` with the arguments; resolves with `{url, stop, output}` when it says where it runs. */
export async function start(...args) {
  const python = existsSync(`${ROOT}.venv/bin/python`) ? `${ROOT}.venv/bin/python` : 'python3'
  const dataDir = mkdtempSync(join(tmpdir(), 'durable-'))
  const child = spawn(python, ['-m', 'proxy', ...args, '--data-dir', dataDir], {
    cwd: ROOT,
    env: { ...process.env, PROXY_SECRET: SECRET },
  })
  let output = ''
  const url = await new Promise((resolve, reject) => {
    const read = (data) => {
      output += data
      const line = /running at (http:\/\/\S+)/.exec(output)
      if (line) resolve(line[1])
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.once('exit', (code) => reject(new Error(`the proxy ended with ${code}: ${output}`)))
  })
  const stop = async () => {
    if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit')
    rmSync(dataDir, { recursive: true, force: true })
  }
  return { url, stop, output: () => output }
}

export const launch = () =>
  chromium.launch({
    executablePath: CHROMIUM,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })

/** `world` is filled before the first test of a file and taken down after the last. */
export function openWorld() {
  const world = {}
  before(async () => {
    world.upstream = new Upstream()
    world.upstreamServer = await HttpPeer.start((...args) => world.upstream.handle(...args))
    world.api = `${world.upstreamServer.url}/api/chat`
    world.proxy = await start('--port', '0', '--host', '127.0.0.1', '--allow', 'http://127.0.0.1:*/**')
    world.network = new Network(world.proxy.url)
    world.proxyUrl = await listen(world.network.server)
    world.bundles = await bundle(world)
    world.appServer = await HttpPeer.start((request, response) => serveApp(world, request, response))
    world.app = world.appServer.url
    world.browser = await launch()
  })
  after(async () => {
    await world.browser?.close()
    for (const server of [world.appServer, world.upstreamServer]) await server?.stop()
    world.network?.cut()
    world.network?.server.close()
    await world.proxy?.stop()
  })
  return world
}

function serveApp(world, request, response) {
  const { pathname } = new URL(request.url, world.app)
  const send = (type, text) => response.writeHead(200, { 'Content-Type': type }).end(text)
  if (pathname === '/api/proxy-token') return send('text/plain', mint())
  if (pathname.endsWith('.js')) return send('text/javascript', world.bundles[pathname.slice(1, -3)])
  const config = JSON.stringify({ api: world.api, proxyUrl: `${world.proxyUrl}/v1/proxy` })
  return send(
    'text/html',
    `<!doctype html><meta charset="utf-8"><title>${pathname}</title><link rel="icon" href="data:,"><div id="root"></div>
     <script type="application/json" id="config">${config}</script><script type="module" src="${pathname}.js"></script>`,
  )
}

/** What a test does in a browser of its own: tabs, the console, and every request that left. */
class Visit {
  constructor(world, context) {
    this.world = world
    this.context = context
    this.console = []
    this.requests = []
    context.on(
      'console',
      (message) => message.type() === 'info' || this.console.push(`${message.type()}: ${message.text()}`),
    )
    context.on('weberror', (error) => this.console.push(`uncaught: ${error.error()}`))
    context.on('request', (request) => this.requests.push(request))
  }
  async open(path) {
    const page = await this.context.newPage()
    page.setDefaultTimeout(15_000)
    await page.goto(`${this.world.app}/${path}`)
    return new Tab(page)
  }
  /** Loses the network, as the browser notices it too. */
  async goOffline() {
    await this.context.setOffline(true)
    this.world.network.cut()
  }
  async goOnline() {
    this.world.network.mend()
    await this.context.setOffline(false)
  }
  /** How many requests of a method went to the proxy. */
  count(method) {
    return this.requests.filter(
      (request) => request.method() === method && request.url().startsWith(this.world.proxyUrl),
    ).length
  }
}

/** A chat in a page. */
class Tab {
  constructor(page) {
    this.page = page
  }
  async ask(text) {
    await this.page.fill('#prompt', text)
    await this.page.click('#send')
  }
  click(id) {
    return this.page.click(`#${id}`)
  }
  /** Waits until the chat shows exactly these messages, `role: text` each. */
  async shows(...messages) {
    await this.#until(
      (wanted) => JSON.stringify([...document.querySelectorAll('.message')].map((node) => node.textContent)) === wanted,
      JSON.stringify(messages),
      '.message',
    )
  }
  async hasStatus(status) {
    await this.#until((wanted) => document.querySelector('#status').textContent === wanted, status, '#status')
  }
  async #until(condition, argument, selector) {
    try {
      await this.page.waitForFunction(condition, argument)
    } catch (error) {
      const found = await this.page
        .$$eval(selector, (nodes) => nodes.map((node) => node.textContent))
        .catch(() => 'no page')
      throw new Error(`expected ${argument}, found ${JSON.stringify(found)}`, { cause: error })
    }
  }
  reload() {
    return this.page.reload()
  }
}

/** A test in a browser context of its own; when it fails, screenshots and the console are printed. */
export function browserTest(world, name, body) {
  test(name, { timeout: 60_000, skip: CHROMIUM ? false : 'there is no Chromium here' }, async () => {
    const context = await world.browser.newContext()
    const visit = new Visit(world, context)
    world.upstream = new Upstream()
    world.network?.mend()
    try {
      await body(visit)
    } catch (error) {
      for (const [index, page] of context.pages().entries()) {
        const path = join(process.env.SCREENSHOTS ?? tmpdir(), `${name.replace(/\W+/g, '-')}-${index}.png`)
        await page.screenshot({ path }).catch(() => {})
        console.error(`screenshot: ${path}`)
      }
      console.error(['console:', ...visit.console, 'proxy:', world.proxy.output()].join('\n  '))
      throw error
    } finally {
      for (const call of world.upstream.calls) if (!call.isClosed) call.response.destroy()
      await context.close()
    }
  })
}
