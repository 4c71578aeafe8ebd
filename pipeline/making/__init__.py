"""What makes stores of networks: generate, fork, read out."""
