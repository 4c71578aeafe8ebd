"""What runs networks, and the command line."""
