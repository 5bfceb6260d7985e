"""exp14: which window of MLPs, put into PT or taken out of IT, moves the late distance most?"""
