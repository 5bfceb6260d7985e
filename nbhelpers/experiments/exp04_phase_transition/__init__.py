"""exp04: does the representation change its character near a third of the depth?"""
