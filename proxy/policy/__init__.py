"""Pure decisions: who may call (auth), what may be called (allowlist, addresses), which header fields cross
(forwarding) and what browsers may see (cors). No I/O, no clock: whoever asks says what time it is.
"""
