"""What is computed from residuals, steps and weights, one measure a file. Nothing here knows an experiment."""
