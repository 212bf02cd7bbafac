"""Faults and hostile inputs: whatever is done to it, the program says one line and harms nothing."""
