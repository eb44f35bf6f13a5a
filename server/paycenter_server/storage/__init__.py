"""All SQL. Functions take a connection and return domain values; only services open transactions."""
