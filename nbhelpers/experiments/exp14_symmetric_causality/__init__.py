"""exp14: which window of MLPs, grafted into PT or replaced in IT, changes late KL most?"""
