"""What each verb of the command line does; what it needs is imported inside it, so that `--help` is instant."""
