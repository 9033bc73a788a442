"""report.html of a run and compare.html of a comparison."""
