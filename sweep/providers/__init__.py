"""Providers of machines that run the trials: one contract (`base`), and one module or folder for each provider."""
