"""What every room may use: error codes, owned tasks, telemetry."""
