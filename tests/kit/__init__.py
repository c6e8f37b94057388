"""What tests share, one kit for each need: `tests/README.md` says which.

Kits that are servers run in a thread or a process of their own, so that synchronous and asynchronous tests use them
alike; an asynchronous test whose own loop the peer waits for calls the `wait_…` methods through `asyncio.to_thread`.
"""
