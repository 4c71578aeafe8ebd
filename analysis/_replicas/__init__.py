"""What quantities of forks share: several ends from one state."""
