"""Commands and their output.  Each command imports what it needs inside its function, so that `--help` is instant."""
