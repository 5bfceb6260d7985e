"""exp06: does the late IT − PT direction, removed or amplified, move the form of replies, and nothing else?"""
