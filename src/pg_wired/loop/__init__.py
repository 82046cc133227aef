"""What touches the event loop: one non-blocking socket, its owner, deadlines. It knows no protocol."""
