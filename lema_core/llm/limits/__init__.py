"""How many requests an endpoint is sent, when one is sent again, and when to stop."""
