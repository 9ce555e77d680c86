"""``kvplan verify``: predicted beside measured, on the device at hand."""
