/** Content codings of an upstream that compresses although the proxy asks it not to. Internal. */

const FORMATS = { gzip: 'gzip', 'x-gzip': 'gzip', deflate: 'deflate', br: 'brotli', zstd: 'zstd' }

/** The stream that decodes `coding`. Throws DOMException `NotSupportedError` if there is none here. */
function decoderOf(coding) {
  try {
    return new DecompressionStream(FORMATS[coding] ?? coding)
  } catch {
    throw new DOMException(`the answer is encoded as ${coding}, which cannot be decoded here`, 'NotSupportedError')
  }
}

/** `body` decoded. `encoding` is the value of a Content-Encoding field, or null. Throws as decoderOf does. */
export function decoded(body, encoding) {
  const codings = (encoding ?? '').toLowerCase().split(',')
  const decoders = codings
    .map((coding) => coding.trim())
    .filter((coding) => coding && coding !== 'identity')
    .reverse() // they are listed in the order in which they were applied
    .map(decoderOf)
  return decoders.reduce((stream, decoder) => stream.pipeThrough(decoder), body)
}

/** `bytes` decoded as a whole. Rejects if they are not what `encoding` says. */
export async function decodeAll(bytes, encoding) {
  return new Uint8Array(await new Response(decoded(new Blob([bytes]).stream(), encoding)).arrayBuffer())
}

/** A body that fails with `error` when it is read. */
export const failing = (error) =>
  new ReadableStream({ pull: (controller) => controller.error(error) }, { highWaterMark: 0 })
