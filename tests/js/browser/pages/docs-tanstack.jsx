import { Chat } from 'docs:tanstack.jsx'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'

createRoot(document.getElementById('root')).render(
  <StrictMode>
    <Chat threadId="thread-1" />
  </StrictMode>,
)
