"""From a ConnConfig to a connection that is logged in, message by message; and cancel requests."""
