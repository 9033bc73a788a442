"""Weights in, from runs and from elsewhere."""
