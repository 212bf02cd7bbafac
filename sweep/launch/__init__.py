"""One launch of a sweep: run it here or on other machines, follow it, check it beforehand, and end it."""
