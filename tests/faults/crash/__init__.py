"""No tests: the operations of test_crash_matrix.py, and the process that is killed."""
