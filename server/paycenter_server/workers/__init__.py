"""Transport 3: the arq workers. arq is in maintenance mode and stays behind this package."""
