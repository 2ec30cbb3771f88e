"""Inputs and jobs: the only code that writes their state."""
