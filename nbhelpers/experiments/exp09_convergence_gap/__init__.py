"""exp09: does IT stay farther from its own final prediction, and does it commit later?"""
