"""Benchmarks of pg_wired, of other drivers and of the server itself. `python -m benchmarks` runs all of them."""
