"""exp08: does removing the IT − PT direction act alike in six families, and is one direction enough?"""
