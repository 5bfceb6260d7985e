"""exp13: which tokens do late grafts displace and support, and what do late MLP updates push for?"""
