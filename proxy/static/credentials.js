/** Where the credentials of streams are kept, and what their pre-signed URLs say. client.js exports all of it. */

/** A storage that lives as long as this object. */
export class MemoryStorage {
  #items = new Map()

  get length() {
    return this.#items.size
  }
  key(index) {
    return [...this.#items.keys()][index] ?? null
  }
  getItem(key) {
    return this.#items.get(key) ?? null
  }
  setItem(key, value) {
    this.#items.set(key, String(value))
  }
  removeItem(key) {
    this.#items.delete(key)
  }
}

const memory = new MemoryStorage()

/** localStorage if there is a document that may use it, otherwise one MemoryStorage for this process. */
export function getDefaultStorage() {
  try {
    if (typeof document !== 'undefined' && globalThis.localStorage) return globalThis.localStorage
  } catch {
    // in a sandboxed frame, or with cookies blocked, reading the property throws
  }
  return memory
}

/** One key for each proxy and request id, so that one proxy's stream is never asked for at another. */
export function createStorageKey(prefix, proxyUrl, requestId) {
  return `${prefix}${String(proxyUrl).replace(/\/+$/, '')}:${requestId}`
}

/** Stores credentials. False if the storage refuses (full or forbidden), which does not harm the stream. */
export function saveCredentials(storage, key, credentials) {
  const text = JSON.stringify(credentials)
  try {
    storage.setItem(key, text)
    return true
  } catch {
    try {
      removeExpired(storage)
      storage.setItem(key, text)
      return true
    } catch {
      return false
    }
  }
}

/** The credentials under `key`. Null if there are none, or what is there is not credentials or not readable. */
export function loadCredentials(storage, key) {
  try {
    const credentials = JSON.parse(storage.getItem(key))
    return typeof credentials?.streamUrl === 'string' ? credentials : null
  } catch {
    return null
  }
}

/** Removes the credentials under `key`; with `streamId`, only if they are still that stream's. */
export function removeCredentials(storage, key, streamId) {
  try {
    if (streamId === undefined || loadCredentials(storage, key)?.streamId === streamId) storage.removeItem(key)
  } catch {
    // the storage refuses; the credentials expire by themselves
  }
}

function removeExpired(storage) {
  const keys = Array.from({ length: storage.length ?? 0 }, (_, index) => storage.key(index))
  for (const key of keys) {
    const credentials = loadCredentials(storage, key)
    const pending = loadPending(storage, key)
    if (credentials ? isUrlExpired(credentials.streamUrl) : pending?.isExpired) storage.removeItem(key)
  }
}

/** How long (ms) the key of a create without an answer is kept: as long as a stream lives by default. */
const PENDING_LIFE = 86_400_000

/** The pending create under `key`, with `isExpired`, or null. */
function loadPending(storage, key) {
  try {
    const pending = JSON.parse(storage.getItem(key))
    if (typeof pending?.idempotencyKey !== 'string' || pending.streamUrl) return null
    return { ...pending, isExpired: !(Date.now() - pending.begun < PENDING_LIFE) }
  } catch {
    return null
  }
}

/** The stream id in a pre-signed URL (absolute or relative). Null if there is none. */
export function extractStreamIdFromUrl(url) {
  return /\/v1\/proxy\/([^/?#]+)/.exec(url)?.[1] ?? null
}

/** When a pre-signed URL expires, in seconds since 1970. Null if it does not say. */
export function extractExpiresFromUrl(url) {
  const digits = /[?&]expires=(\d+)(?=&|#|$)/.exec(url)?.[1]
  return digits === undefined ? null : Number(digits)
}

/** Whether a pre-signed URL, or an expiry time in seconds, lies in the past at `now` (milliseconds). */
export function isUrlExpired(urlOrExpires, now = Date.now()) {
  const expires = typeof urlOrExpires === 'number' ? urlOrExpires : extractExpiresFromUrl(urlOrExpires)
  return expires !== null && now >= expires * 1000
}

/** The credentials of one proxy's streams, by request id. */
export class CredentialStore {
  #storage
  #keyOf
  #pendingKeyOf

  constructor(storage, prefix, proxyUrl) {
    this.#storage = storage
    this.#keyOf = (requestId) => createStorageKey(prefix, proxyUrl, requestId)
    this.#pendingKeyOf = (requestId) => createStorageKey(`${prefix}pending:`, proxyUrl, requestId)
  }

  /**
   * The Idempotency-Key under which the request with this fingerprint was made before, if any. Its stream may be gone
   * or out of reach, or its 201 was lost: the same key again brings the stream if there is one, and a new call if not.
   */
  idempotencyKeyOf(id, fingerprint) {
    const known = [this.get(id), loadPending(this.#storage, this.#pendingKeyOf(id))]
    return known.find((entry) => entry?.fingerprint === fingerprint && !entry.isExpired)?.idempotencyKey
  }

  /** Remembers the key of a create that is about to be sent. Nothing else is remembered of it. */
  begin(id, idempotencyKey, fingerprint) {
    saveCredentials(this.#storage, this.#pendingKeyOf(id), { idempotencyKey, fingerprint, begun: Date.now() })
  }

  /** The create has its answer. */
  settle(id) {
    removeCredentials(this.#storage, this.#pendingKeyOf(id))
  }

  /** What is stored under `id`, or null. Another program may have stored it, so missing fields are filled in. */
  get(id) {
    const credentials = loadCredentials(this.#storage, this.#keyOf(id))
    return credentials && { streamId: extractStreamIdFromUrl(credentials.streamUrl), ids: [id], ...credentials }
  }

  /** Stores `credentials` under each of its ids for which `isWanted(id)` holds. */
  save(credentials, isWanted = () => true) {
    for (const id of credentials.ids) {
      if (isWanted(id)) saveCredentials(this.#storage, this.#keyOf(id), credentials)
    }
  }

  /** Forgets a stream under all its ids, but not another stream that has taken one of them since. */
  forget({ streamId, ids }) {
    for (const id of ids) removeCredentials(this.#storage, this.#keyOf(id), streamId)
  }
}
