import { ask } from 'docs:fetch.js'

window.ask = ask
