"""Compiled loops: plain arrays in, plain arrays out, no interpreter lock."""
