"""What everything stands on: parameters, results on disk, parts of the stack of layers, statistics. No model library."""
