/** Stored credentials: found again, told apart, advanced, and removed. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  createAbortFn,
  createStorageKey,
  extractExpiresFromUrl,
  extractStreamIdFromUrl,
  getDefaultStorage,
  isUrlExpired,
  loadCredentials,
  MemoryStorage,
  removeCredentials,
  saveCredentials,
} from '../../../proxy/static/client.js'
import { cut, drop, FakeStream, hang, refuse } from '../kit/fake-proxy.js'
import { perTest, post, UPSTREAM } from '../kit/harness.js'

const t = perTest()

/** A stream that is begun and left: as after a reload in the middle of an answer. */
async function left(options, init = { requestId: 'r' }) {
  const stream = t.proxy.add(new FakeStream().append('one ', 'two '))
  t.proxy.makeStream = () => stream
  const response = await t.fetch(options)(UPSTREAM, post(init))
  const reader = response.body.getReader()
  await reader.read()
  await reader.read()
  await reader.cancel()
  stream.append('three').close()
  return stream
}

test('the same request under the same id reads the same stream from its start, in another page too', async () => {
  await left()
  const response = await t.fetch()(UPSTREAM, post({ requestId: 'r' }))
  assert.equal(response.wasResumed, true)
  assert.equal(response.status, 200)
  assert.equal(response.headers.get('Content-Type'), 'application/octet-stream')
  assert.equal(await response.text(), 'one two three')
  assert.equal(t.proxy.count('POST'), 1)
})

test('with resumeFrom "offset" it goes on behind the last byte that was read, wherever that was cut', async () => {
  for (const at of [0, 20, 30, 60, 110, 118, 125, 150, 190]) {
    t.storage.removeItem(createStorageKey('durable-streams:', t.proxy.url, 'r'))
    const stream = t.proxy.add(new FakeStream().append('one ', 'two '))
    t.proxy.makeStream = () => stream
    t.proxy.next('GET', cut(at), ...Array(9).fill(drop))
    const options = { resumeFrom: 'offset', retry: { baseDelay: 1, maxDelay: 1, attempts: 2 } }
    const first = await t.fetch(options)(UPSTREAM, post({ requestId: 'r' }))
    const begun = []
    await assert.rejects(async () => {
      for await (const part of first.body) begun.push(part)
    })
    t.proxy.faults.GET.length = 0
    stream.append('three').close()
    const second = await t.fetch(options)(UPSTREAM, post({ requestId: 'r' }))
    assert.equal(Buffer.concat(begun).toString() + (await second.text()), 'one two three', `cut at ${at}`)
  }
})

test('the same id with another question is a new request', async () => {
  for (const change of [{ body: '{"question":2}' }, { method: 'PUT' }]) {
    await left()
    t.proxy.makeStream = () => new FakeStream().append('new answer').close()
    const posts = t.proxy.count('POST')
    const response = await t.fetch()(UPSTREAM, post({ requestId: 'r', ...change }))
    assert.equal(response.wasResumed, false)
    assert.equal(await response.text(), 'new answer')
    assert.equal(t.proxy.count('POST'), posts + 1)
  }
  await left()
  assert.equal((await t.fetch()(`${UPSTREAM}/other`, post({ requestId: 'r' }))).wasResumed, false)
})

test('the same request twice at once asks once, and both answers are whole', async () => {
  const fetch = t.fetch()
  const ask = () => fetch(UPSTREAM, post({ requestId: 'r' }))
  const responses = await Promise.all([ask(), ask(), ask()])
  assert.deepEqual(
    responses.map((response) => response.wasResumed),
    [false, true, true],
  )
  for (const response of responses) assert.equal(await response.text(), 'hello world')
  assert.equal(t.proxy.count('POST'), 1)
})

test('the second of two at once asks when the first one got no stream, and waits no longer than its signal', async () => {
  const fetch = t.fetch()
  const [first, left] = [new AbortController(), new AbortController()]
  t.proxy.next('POST', hang)
  const given = fetch(UPSTREAM, post({ requestId: 'r', signal: first.signal }))
  const waiting = fetch(UPSTREAM, post({ requestId: 'r', signal: left.signal }))
  const second = fetch(UPSTREAM, post({ requestId: 'r' }))
  await t.proxy.arrived('POST', 1)
  left.abort()
  await assert.rejects(waiting, { name: 'AbortError' })
  first.abort()
  await assert.rejects(given, { name: 'AbortError' })
  assert.equal(await (await second).text(), 'hello world')
  assert.equal(t.proxy.count('POST'), 2)
})

test('the same form again is the same question, though its boundary is new', async () => {
  const form = () => {
    const data = new FormData()
    data.set('field', 'value')
    return data
  }
  await left({}, { requestId: 'r', body: form(), headers: {} })
  const response = await t.fetch()(UPSTREAM, post({ requestId: 'r', body: form(), headers: {} }))
  assert.equal(response.wasResumed, true)
})

test('another upstream key does not make it another question', async () => {
  await left({}, { requestId: 'r', headers: { Authorization: 'Bearer old' } })
  const response = await t.fetch()(UPSTREAM, post({ requestId: 'r', headers: { Authorization: 'Bearer new' } }))
  assert.equal(response.wasResumed, true)
})

test('an answer that was read to its end is forgotten: the same question is a new call', async () => {
  const fetch = t.fetch()
  await (await fetch(UPSTREAM, post({ requestId: 'r' }))).text()
  assert.equal(t.storage.length, 0)
  t.proxy.makeStream = () => new FakeStream().append('second').close()
  assert.equal(await (await fetch(UPSTREAM, post({ requestId: 'r' }))).text(), 'second')
})

test('an answer that ended incomplete is forgotten too', async () => {
  t.proxy.makeStream = () => new FakeStream().append('part').close('interrupted')
  const response = await t.fetch()(UPSTREAM, post({ requestId: 'r' }))
  await assert.rejects(response.text())
  assert.equal(t.storage.length, 0)
})

test('credentials advance with what is read, and hold no secret but the URL', async () => {
  const stream = await left(
    { proxyAuthorization: 'service-secret' },
    { requestId: 'r', headers: { Authorization: 'Bearer sk-1' } },
  )
  const key = createStorageKey('durable-streams:', t.proxy.url, 'r')
  const credentials = loadCredentials(t.storage, key)
  assert.equal(credentials.offset, stream.token(1))
  assert.equal(credentials.skip, 4)
  assert.equal(credentials.streamId, stream.id)
  assert.equal(credentials.upstreamContentType, 'application/octet-stream')
  assert.doesNotMatch(t.storage.getItem(key), /service-secret|sk-1|question/)
})

test('without a request id nothing is stored', async () => {
  await t.fetch()(UPSTREAM, post())
  assert.equal(t.storage.length, 0)
})

test('autoResume: false makes a new call, and leaves resuming to fetch.resume', async () => {
  await left({ autoResume: false })
  const response = await t.fetch({ autoResume: false }).resume('r')
  assert.equal(await response.text(), 'one two three')
  await left({ autoResume: false })
  assert.equal((await t.fetch({ autoResume: false })(UPSTREAM, post({ requestId: 'r' }))).wasResumed, false)
})

test('resume gives null when nothing is stored, it expired, or it is gone; it never asks upstream', async () => {
  const fetch = t.fetch()
  assert.equal(await fetch.resume('r'), null)
  for (const [status, code] of [
    [404, 'STREAM_NOT_FOUND'],
    [401, 'SIGNATURE_EXPIRED'],
    [401, 'SIGNATURE_INVALID'],
  ]) {
    await left()
    t.proxy.next('GET', refuse(status, code))
    assert.equal(await fetch.resume('r'), null)
    assert.equal(t.storage.length, 0)
  }
  const stream = await left()
  stream.expires = 1
  const key = createStorageKey('durable-streams:', t.proxy.url, 'r')
  saveCredentials(t.storage, key, { ...loadCredentials(t.storage, key), streamUrl: `${t.proxy.origin}${stream.url}` })
  const gets = t.proxy.count('GET')
  assert.equal(await fetch.resume('r'), null)
  assert.equal(t.proxy.count('GET'), gets, 'an expired URL is not even tried')
  assert.equal(t.storage.length, 0)
  assert.equal(t.proxy.count('POST'), 4)
})

test('a stream that is gone is replaced by a new one in the same call', async () => {
  await left()
  t.proxy.next('GET', refuse(404, 'STREAM_NOT_FOUND'))
  t.proxy.makeStream = () => new FakeStream().append('new').close()
  assert.equal(await (await t.fetch()(UPSTREAM, post({ requestId: 'r' }))).text(), 'new')
})

test('resuming while the proxy is down fails soon, and keeps the credentials', async () => {
  await left()
  t.proxy.next('GET', ...Array(3).fill(drop))
  await assert.rejects(t.fetch().resume('r'), TypeError)
  t.proxy.next('GET', ...Array(3).fill(hang))
  await assert.rejects(t.fetch({ retry: { baseDelay: 1, headTimeout: 20 } }).resume('r'), TypeError)
  assert.equal(await (await t.fetch().resume('r')).text(), 'one two three')
})

test('resuming is ended by a signal', async () => {
  await left()
  t.proxy.next('GET', hang)
  const gets = t.proxy.count('GET')
  const controller = new AbortController()
  const resumed = t.fetch().resume('r', { signal: controller.signal })
  await t.proxy.arrived('GET', gets + 1)
  controller.abort()
  await assert.rejects(resumed, { name: 'AbortError' })
  await assert.rejects(t.fetch().resume('r', { signal: controller.signal }), { name: 'AbortError' })
})

test('in long-poll mode a resume does not wait for bytes to know that the stream is there', async () => {
  const stream = t.proxy.add(new FakeStream())
  t.proxy.makeStream = () => stream
  await t.fetch()(UPSTREAM, post({ requestId: 'r' }))
  const response = await t.fetch({ live: 'long-poll' }).resume('r')
  assert.equal(response.wasResumed, true)
  stream.append('late').close()
  assert.equal(await response.text(), 'late')
})

test('credentials that another program stored are good when they hold a URL', async () => {
  const stream = t.proxy.add(new FakeStream().append('answer').close())
  const key = createStorageKey('durable-streams:', t.proxy.url, 'r')
  const write = () => saveCredentials(t.storage, key, { streamUrl: `${t.proxy.origin}${stream.url}` })
  write()
  assert.equal(await (await t.fetch().resume('r')).text(), 'answer')
  assert.equal(t.storage.length, 0)
  write()
  const response = await t.fetch({ resumeFrom: 'offset' })(UPSTREAM, post({ requestId: 'r' }))
  assert.deepEqual([response.wasResumed, response.streamId, await response.text()], [true, stream.id, 'answer'])
})

test('a storage that is full or forbidden costs no answer', async () => {
  const full = {
    getItem: () => null,
    removeItem() {},
    setItem() {
      throw new DOMException('full', 'QuotaExceededError')
    },
  }
  const forbidden = {
    getItem() {
      throw new Error('no')
    },
    setItem() {
      throw new Error('no')
    },
    removeItem() {
      throw new Error('no')
    },
  }
  for (const storage of [full, forbidden]) {
    const response = await t.fetch({ storage })(UPSTREAM, post({ requestId: 'r' }))
    assert.equal(await response.text(), 'hello world')
  }
  assert.equal(t.proxy.count('POST'), 2)
})

test('a full storage is cleared of what expired', () => {
  class Small extends MemoryStorage {
    setItem(key, value) {
      if (this.length >= 2 && this.getItem(key) === null) throw new DOMException('full', 'QuotaExceededError')
      super.setItem(key, value)
    }
  }
  const storage = new Small()
  saveCredentials(storage, 'old', { streamUrl: 'http://x/v1/proxy/a?expires=1&signature=s' })
  storage.setItem('foreign', 'kept')
  assert.equal(
    saveCredentials(storage, 'new', { streamUrl: 'http://x/v1/proxy/b?expires=99999999999&signature=s' }),
    true,
  )
  assert.deepEqual([storage.getItem('old'), storage.getItem('foreign')], [null, 'kept'])
  assert.equal(saveCredentials(storage, 'newer', { streamUrl: 'u' }), false)
  for (const begun of [Date.now() - 86_400_000, undefined]) {
    storage.removeItem('new')
    storage.setItem('pending', JSON.stringify({ idempotencyKey: 'k', fingerprint: 'f', begun }))
    assert.equal(saveCredentials(storage, 'new', { streamUrl: 'u' }), true, 'the key of an old create gave way')
  }
})

test('the end of an older stream does not remove what a newer one has stored', async () => {
  const older = t.proxy.add(new FakeStream().append('old'))
  t.proxy.makeStream = () => older
  const fetch = t.fetch()
  const first = await fetch(UPSTREAM, post({ requestId: 'r' }))
  const newer = t.proxy.add(new FakeStream().append('new'))
  t.proxy.makeStream = () => newer
  await fetch(UPSTREAM, post({ requestId: 'r', body: 'other' }))
  older.close()
  await first.text()
  assert.equal(fetch.stored('r').streamId, newer.id)
})

test('of two requests under one id the later one is stored, whichever 201 comes last', async () => {
  let open
  t.proxy.next('POST', async (_, __, serve) => {
    await new Promise((resolve) => (open = resolve))
    serve()
  })
  const fetch = t.fetch({ autoResume: false })
  const first = fetch(UPSTREAM, post({ requestId: 'r' }))
  await t.proxy.arrived('POST')
  const second = await fetch(UPSTREAM, post({ requestId: 'r' }))
  open()
  await first
  assert.equal(fetch.stored('r').streamId, second.streamId)
})

test('an alias is a second name for everything', async () => {
  await left({}, { requestId: 'r', alias: 'a', note: { kept: [1] } })
  const response = await t.fetch().resume('a')
  assert.deepEqual(response.note, { kept: [1] })
  await response.text()
  assert.equal(t.storage.length, 0)
  await left({}, { requestId: 'r', alias: 'a' })
  t.fetch().forget('a')
  assert.equal(t.storage.length, 0)
})

test('abort stops the upstream by the pre-signed URL alone, through the response, the id or the URL', async () => {
  const begin = async () => {
    const stream = t.proxy.add(new FakeStream().append('part'))
    t.proxy.makeStream = () => stream
    const fetch = t.fetch({ proxyAuthorization: 'service-secret', autoResume: false })
    return { stream, fetch, response: await fetch(UPSTREAM, post({ requestId: 'r' })) }
  }
  const ways = [
    ({ response }) => response.abort(),
    ({ fetch }) => fetch.abort('r'),
    ({ response }) => createAbortFn(response.streamUrl)(),
  ]
  for (const [index, way] of ways.entries()) {
    const begun = await begin()
    await way(begun)
    const { headers, url } = await t.proxy.arrived('PATCH', index + 1)
    assert.equal(headers.authorization, undefined)
    assert.equal(url, `${begun.stream.url}&action=abort`)
    assert.equal(begun.stream.outcome, 'aborted')
    if (index < 2) assert.equal(t.storage.length, 0)
  }
  assert.equal(await t.fetch().abort('unknown'), false)
})

test('an abort is retried when the network fails, harmless when repeated or late, and says when it is refused', async () => {
  const stream = t.proxy.add(new FakeStream())
  const abort = createAbortFn(`${t.proxy.origin}${stream.url}`)
  t.proxy.next('PATCH', drop)
  await abort()
  await abort()
  t.proxy.next('PATCH', refuse(404, 'STREAM_NOT_FOUND'))
  await abort()
  t.proxy.next('PATCH', refuse(401, 'SIGNATURE_EXPIRED'))
  await assert.rejects(abort(), { name: 'ProxyError', code: 'SIGNATURE_EXPIRED' })
})

test('a stop outlasts an outage as a reader does, and until it has come through the stream can be found', async () => {
  t.proxy.makeStream = () => t.proxy.add(new FakeStream().append('part'))
  const fetch = t.fetch()
  const response = await fetch(UPSTREAM, post({ requestId: 'r' }))
  const stored = []
  const look = (...args) => {
    stored.push(fetch.stored('r')?.streamId ?? null)
    drop(...args)
  }
  t.proxy.next('PATCH', ...Array(5).fill(look))
  await response.abort()
  assert.deepEqual(stored, [null, ...Array(4).fill(response.streamId)])
  assert.equal(fetch.stored('r'), null)
  t.proxy.next('PATCH', ...Array(10).fill(drop))
  const other = await fetch(UPSTREAM, post({ requestId: 'r' }))
  await assert.rejects(other.abort(), /network error/)
  assert.equal(fetch.stored('r').streamId, other.streamId)
  assert.equal(await fetch.abort('r'), true)
})

test('URLs tell their stream and their expiry', () => {
  const url = '/v1/proxy/0a-b?expires=1700000000&signature=x'
  assert.equal(extractStreamIdFromUrl(url), '0a-b')
  assert.equal(extractStreamIdFromUrl(`https://p.example${url}`), '0a-b')
  assert.equal(extractStreamIdFromUrl('https://p.example/'), null)
  assert.equal(extractExpiresFromUrl(url), 1700000000)
  assert.equal(extractExpiresFromUrl('/v1/proxy/x?signature=expires=1'), null)
  assert.equal(extractExpiresFromUrl('/v1/proxy/x?expires=1e3'), null)
  assert.equal(isUrlExpired(url, 1700000000_000 - 1), false)
  assert.equal(isUrlExpired(url, 1700000000_000), true)
  assert.equal(isUrlExpired(1), true)
  assert.equal(isUrlExpired('/v1/proxy/x'), false)
})

test('keys are scoped by proxy and request', () => {
  assert.equal(createStorageKey('p:', 'https://a/v1/proxy/', 'r'), 'p:https://a/v1/proxy:r')
  assert.notEqual(createStorageKey('p:', 'https://a/v1/proxy', 'r'), createStorageKey('p:', 'https://b/v1/proxy', 'r'))
})

test('what is not credentials is none', () => {
  const storage = new MemoryStorage()
  for (const text of ['', 'null', '{', '[]', '{"streamUrl":1}', '"x"']) {
    storage.setItem('k', text)
    assert.equal(loadCredentials(storage, 'k'), null)
  }
  removeCredentials(storage, 'k')
  assert.equal(storage.length, 0)
})

test('Node’s default storage is one MemoryStorage', () => {
  assert.ok(getDefaultStorage() instanceof MemoryStorage)
  assert.equal(getDefaultStorage(), getDefaultStorage())
})
