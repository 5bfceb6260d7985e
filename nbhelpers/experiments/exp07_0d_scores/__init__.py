"""Validations 0D and 0E: are the intervals, effect sizes and scores of the steering run what they claim to be?"""
