"""Validations 0A, 0B and 0H: is the direction stable, what is it made of, and does it hang on the prompts that gave it?"""
