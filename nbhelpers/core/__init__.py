"""The base of the package: parameters, results on disk, parts of the stack of layers, statistics. Loads no model library."""
