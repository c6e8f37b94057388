"""What tests share: real servers in their own processes, scripted peers, an oracle for bytes, certificates.

Nothing here knows the proxy's insides but `handlers`, which wraps a `Handler`. Scripted peers run in a thread of
their own, so that synchronous and asynchronous tests use them alike; an asynchronous test whose own loop the peer
waits for calls the `wait_…` methods through `asyncio.to_thread`.
"""
