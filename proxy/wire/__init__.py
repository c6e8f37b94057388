"""Bytes to events and back: no I/O, no clock. Nothing here raises on a peer's input but `PeerError`."""
