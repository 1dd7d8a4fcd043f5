"""Reconstruction: rounding and steps learned piece by piece, so that each gives what the float network's gives."""
