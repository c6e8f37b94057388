/** Waiting for what nobody announces. Await a promise or an event where there is one. */

/** Resolves when `condition()` holds; it is asked in every turn of the event loop. The test's time-out bounds it. */
export async function until(condition) {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve))
}

/** Resolves three timer turns later: whatever was going to happen without further input has happened. */
export async function settled() {
  for (let count = 0; count < 3; count++) await new Promise((resolve) => setTimeout(resolve))
}

/** A promise and the function that resolves it. */
export function gate() {
  let open
  const promise = new Promise((resolve) => {
    open = resolve
  })
  return Object.assign(promise, { open })
}
