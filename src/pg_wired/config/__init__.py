"""Connection strings, keyword arguments, files and environment variables, made into a ConnConfig. It dials nothing."""
