"""exp02: do layer profiles differ between kinds of prompts, and do they need the chat template?"""
