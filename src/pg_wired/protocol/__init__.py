"""Messages and their bytes. It knows no requests and no sockets."""
