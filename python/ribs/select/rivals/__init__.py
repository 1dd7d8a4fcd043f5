"""Other ways to choose bits, within the same budgets and with the same quantizers and accounting as ribs."""
