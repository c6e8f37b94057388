"""Pure decisions: who may call (auth), what may be called (allowlist, addresses), which header fields are forwarded
(forwarding) and what browsers may read (cors). No I/O and no clock: the caller passes the time.
"""
