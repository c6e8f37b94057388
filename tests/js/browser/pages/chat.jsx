/** The page around every chat under test: the plainest one that shows what an SDK's hook says. */
import { StrictMode, useState } from 'react'
import { createRoot } from 'react-dom/client'

export const config = JSON.parse(document.getElementById('config').textContent)
export const params = new URLSearchParams(location.search)

/** What every page gives its transport; `?retry=` replaces the waiting times. */
export const options = {
  proxyUrl: config.proxyUrl,
  proxyAuthorization: async () => (await fetch('/api/proxy-token')).text(),
  retry: JSON.parse(params.get('retry') ?? '{}'),
}

export function View({ messages, status, error, actions }) {
  const [prompt, setPrompt] = useState('')
  const { send, ...others } = actions
  function ask() {
    send(prompt)
    setPrompt('')
  }
  return (
    <>
      {messages.map(({ id, role, text }) => (
        <p className="message" key={id}>{`${role}: ${text}`}</p>
      ))}
      <p id="status">{status}</p>
      <p id="error">{error?.message}</p>
      <input id="prompt" value={prompt} onChange={(event) => setPrompt(event.target.value)} />
      <button type="button" id="send" onClick={ask}>
        send
      </button>
      {Object.entries(others).map(([name, action]) => (
        <button type="button" id={name} key={name} onClick={() => action()}>
          {name}
        </button>
      ))}
    </>
  )
}

/** Mounts `Chat` under StrictMode, with buttons outside of it that unmount it and mount it again. */
export function mount(Chat) {
  function Page() {
    const [isThere, setIsThere] = useState(true)
    return (
      <>
        {isThere && <Chat />}
        <button type="button" id="unmount" onClick={() => setIsThere(false)}>
          unmount
        </button>
        <button type="button" id="mount" onClick={() => setIsThere(true)}>
          mount
        </button>
      </>
    )
  }
  createRoot(document.getElementById('root')).render(
    <StrictMode>
      <Page />
    </StrictMode>,
  )
}
