"""What a login needs: the handshake as a generator, SCRAM, and the policy for what a server may get."""
