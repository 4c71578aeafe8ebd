"""The posterior over a finite dataset, and what is computed beside it."""
