"""Checks of a run's health, from what the run has written."""
