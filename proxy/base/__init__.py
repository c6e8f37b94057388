"""What every room may use: error codes, owned tasks, the allocator's settings."""
