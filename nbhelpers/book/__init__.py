"""The HTML book: pages written from results, and the build."""
