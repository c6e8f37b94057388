"""The Durable Streams base protocol as a Handler, above the engine: requests, answers, live reads, JSON mode."""
