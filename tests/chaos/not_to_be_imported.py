"""Stands for a stranger's code: whoever imports it says so."""

print("was imported")
