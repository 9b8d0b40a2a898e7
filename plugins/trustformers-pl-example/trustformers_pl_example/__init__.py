"""Annealed Gaussian gradient noise for trustformers_pl.

Nothing is imported here: `plugin` is loaded by commands that must start without torch.
"""
