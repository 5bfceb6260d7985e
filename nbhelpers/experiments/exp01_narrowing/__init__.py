"""exp01: do broad effects on the vocabulary give way to narrow ones with depth?"""
