"""Configuration: makes a ConnConfig from connection strings, keyword arguments, files and environment variables."""
