"""Hides the real uvloop, as on a platform where it does not install."""

raise ImportError("the tests run with --loop asyncio")
