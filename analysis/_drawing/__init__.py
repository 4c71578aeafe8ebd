"""How results are drawn: panels of curves, pictures, captions."""
