"""Choosing bits: budgets, costs, task losses, sensitivities, the integer linear program and the search."""
