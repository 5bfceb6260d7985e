"""exp11: which layers' MLPs carry the late delay, when all hybrids read the same tokens?"""
