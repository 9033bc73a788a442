"""Measurements: `python -m benchmarks.step` (any machine), `python -m benchmarks.gpu` (one GPU). Ratios in one run."""
