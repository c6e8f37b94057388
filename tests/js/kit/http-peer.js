/** An HTTP server on loopback whose answers are a function of the test's. */
import { once } from 'node:events'
import { createServer } from 'node:http'

export class HttpPeer {
  /** `answer(request, response, body)` is called when a request has arrived whole; `body` is a Buffer. */
  static async start(answer) {
    const peer = new HttpPeer()
    peer.server = createServer(async (request, response) => {
      const parts = []
      for await (const part of request) parts.push(part)
      await answer(request, response, Buffer.concat(parts))
    })
    peer.url = await listen(peer.server)
    return peer
  }

  /** Breaks every connection. New ones are accepted. */
  cut() {
    this.server.closeAllConnections()
  }

  async stop() {
    this.server.closeAllConnections()
    this.server.close()
    await once(this.server, 'close')
  }
}

/** Binds `server` (HTTP or TCP) to a free port of 127.0.0.1. Resolves with its URL. */
export async function listen(server) {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `http://127.0.0.1:${server.address().port}`
}
