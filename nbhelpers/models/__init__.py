"""A pair of models and what goes into it and comes out of it: texts, tokens, generation, one forward, edits."""
