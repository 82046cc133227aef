"""Many tasks on one connection: its requests and verbs."""
