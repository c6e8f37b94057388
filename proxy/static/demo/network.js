/** The network as this page sees it: the page can cut it, and every request through it is logged. */

export class Network {
  #open = new Set() // the AbortController of every request made since the last cut
  #log

  /** `log(text, kind)` receives one line for each request and each error answer. */
  constructor(log) {
    this.#log = log
    this.isCut = false
    this.reads = 0 // since the page last set it to 0
    this.creates = 0
  }

  /** fetch. While the network is cut it fails, and a cut breaks what is open. */
  async fetch(url, init = {}) {
    if (this.isCut) throw new TypeError('the network is cut')
    const controller = new AbortController()
    init.signal?.addEventListener('abort', () => controller.abort(init.signal.reason))
    this.#open.add(controller)
    const method = init.method ?? 'GET'
    this.#count(method, url)
    const response = await fetch(url, { ...init, signal: controller.signal })
    const kind = response.ok ? 'good' : 'bad'
    if (method !== 'GET' || !response.ok) this.#log(`${response.status} ${response.statusText}`, kind)
    return response
  }

  #count(method, url) {
    if (method === 'GET') this.reads++
    if (method === 'POST') this.creates++
    const offset = new URL(url).searchParams.get('offset')
    const from = offset === '-1' ? 'the start' : offset
    this.#log(`${method} ${{ GET: `from ${from}`, PATCH: 'abort', POST: 'the question' }[method]}`)
  }

  cut() {
    this.isCut = true
    for (const controller of this.#open) controller.abort(new TypeError('the network is cut'))
    this.#open.clear()
    this.#log('the network is cut', 'bad')
  }

  restore() {
    this.isCut = false
    this.#log('the network is back', 'good')
    window.dispatchEvent(new Event('online')) // browsers fire it too; the client then retries at once
  }
}
