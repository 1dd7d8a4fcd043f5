"""Other ways to train, for comparison, with the same quantizers and budgets."""
