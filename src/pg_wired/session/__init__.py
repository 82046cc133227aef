"""One conversation with a server after the login. It knows no sockets, tasks or clocks."""
