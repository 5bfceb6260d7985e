"""exp05: which layers do IT's replies depend on, and does removing the late IT − PT direction do anything of its own?"""
