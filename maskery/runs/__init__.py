"""What is in a run directory."""
