"""A reverse process as data, and the one loop that runs it. Knows no model and no file."""
