"""Asynchronous drivers: they send, wait and hand out bytes as the core decides."""
