"""HTTP as functions: a `Handler` takes a `Request` and returns a `Response`, wherever it runs."""
