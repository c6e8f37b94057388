// The public conformance suite against the store at STORE_URL; tests/store/test_conformance.py runs this.
import { runConformanceTests } from '@durable-streams/server-conformance-tests'

runConformanceTests({
  baseUrl: process.env.STORE_URL,
  longPollTimeoutMs: Number(process.env.STORE_LONG_POLL_MS),
})
