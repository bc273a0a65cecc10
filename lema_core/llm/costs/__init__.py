"""What requests cost: tokens, prices, forecasts, budgets."""
