"""exp12: with IT's late MLPs in PT, does the text that PT writes by itself become more like an assistant's?"""
