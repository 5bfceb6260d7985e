"""One formula a file: what is computed from residuals, steps and weights. Nothing here knows an experiment."""
