"""Authentication: the login handshake as a generator, SCRAM, and the policy on what a server may ask for."""
