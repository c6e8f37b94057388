// The npm durable-streams server on a free port. One JSON line on stdout says where; it ends when stdin does,
// so that it never outlives the test that started it.
import { DurableStreamTestServer } from '@durable-streams/server'

const options = JSON.parse(process.argv[2] ?? '{}')
const server = new DurableStreamTestServer({ port: 0, host: '127.0.0.1', ...options })
const url = await server.start()

let stopping = false
async function stop() {
  if (stopping) return
  stopping = true
  const listener = server.server
  const stopped = server.stop()
  listener.closeAllConnections()
  await stopped
  process.exit(0)
}
process.stdin.on('end', stop)
process.stdin.resume()
process.on('SIGTERM', stop)
process.on('SIGINT', () => {}) // Ctrl-C reaches the whole group; the test closes stdin when it is done

process.stdout.write(`${JSON.stringify({ url })}\n`)
