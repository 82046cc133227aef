"""Real and scripted servers for tests, demo and benchmarks. Not part of the installed package."""
