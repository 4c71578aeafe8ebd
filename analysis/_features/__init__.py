"""Features of parts of a network: what is read of them, how classes are told apart by them, the shape of curves."""
