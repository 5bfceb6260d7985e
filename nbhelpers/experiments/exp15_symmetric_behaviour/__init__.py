"""exp15: which window of MLPs, grafted into PT or replaced in IT, changes what the model writes most?"""
