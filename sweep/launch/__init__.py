"""One launch: on this machine or elsewhere, followed, checked, ended."""
