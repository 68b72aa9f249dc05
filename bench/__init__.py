"""Measured claims: each file compares with a named rival, in one run, as a ratio."""
