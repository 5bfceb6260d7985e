"""exp03: is there a late stage in which IT revises its prediction more than PT?"""
