"""The messages of the protocol and their encoding as bytes. It knows no requests and no sockets."""
