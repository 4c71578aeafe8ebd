"""What quantities of sweeps share."""
