"""Pairs of models: loading, texts and tokens, generation, the forward pass with its residual stream, edits."""
