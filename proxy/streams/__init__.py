"""Durable streams from the client side: names and outcomes, a client over any Handler, the idempotent producer."""
