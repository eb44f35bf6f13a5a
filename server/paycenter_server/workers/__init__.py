"""Transport 3: the arq workers. arq is in maintenance mode, so no other package imports it."""
