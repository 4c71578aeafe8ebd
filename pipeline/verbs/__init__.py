"""The verbs of `traj`, a file for each or for a few alike: arguments, help and messages. cli.py lists them."""
