"""The payer's page: HTTP in front of `services/cashier.py`."""
