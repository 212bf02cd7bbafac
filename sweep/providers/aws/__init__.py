"""Provider `aws`: machines of EC2, with their prices, the checks of the account, and the configuration for Ray."""
