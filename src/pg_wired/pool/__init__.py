"""Many tasks on few connections."""
