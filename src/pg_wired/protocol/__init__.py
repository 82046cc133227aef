"""Bytes in, events out, bytes out: the protocol without any I/O, clock, logging or randomness."""
