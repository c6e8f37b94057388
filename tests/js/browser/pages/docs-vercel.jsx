import { Chat } from 'docs:vercel.jsx'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'

createRoot(document.getElementById('root')).render(
  <StrictMode>
    <Chat id="chat-1" savedMessages={[]} />
  </StrictMode>,
)
