"""Slowness made on purpose: what `--slow` means, who is how slow, and the draws from the seed.

Workers and the simulator share it. Imports: nothing but ps itself.
"""
