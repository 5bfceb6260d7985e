"""Validation 0J: from which layer on does IT oppose the residual stream more than PT?"""
