"""A float network becomes a quantized one: trace, batch norm folding, quantized layers, units, calibration."""
