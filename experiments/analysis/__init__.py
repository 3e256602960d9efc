"""A finished run, looked at."""
