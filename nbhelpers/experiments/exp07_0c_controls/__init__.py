"""Validations 0C, 0F and 0I: is it this direction, are it these layers, is it this formula, at a dose that is the same?"""
