// The npm durable-streams server, file-backed: node npm_store.mjs PACKAGE_DIR PORT DATA_DIR
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"

const [packageDir, port, dataDir] = process.argv.slice(2)
const entry = createRequire(packageDir + "/package.json").resolve("@durable-streams/server")
const { DurableStreamTestServer } = await import(pathToFileURL(entry).href)
await new DurableStreamTestServer({ port: Number(port), host: "127.0.0.1", dataDir }).start()
