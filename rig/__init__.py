"""What tests, demo and benchmarks stand on: real servers, scripted ones. Never part of the installed package."""
