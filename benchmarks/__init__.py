"""Side by side: pg_wired, the other drivers, and what the server itself can do. `python -m benchmarks` runs it all."""
