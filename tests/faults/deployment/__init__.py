"""No tests: a deployment of real processes under load and faults, for test_fault_run.py and the soak."""
