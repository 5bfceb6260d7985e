"""Validation 0J: from which layer does IT oppose the residual stream more than PT?"""
