"""The server of PayCenter."""
