"""Provider `onprem`: the user's own hosts, over SSH."""
