"""What every room may use: error codes and owned tasks."""
