"""Where clusters and tracking servers are, and the credentials for them."""
