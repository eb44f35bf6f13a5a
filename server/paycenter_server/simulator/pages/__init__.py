"""The HTML pages: trades, the wire log, the settings, and the cashier of the payer."""
