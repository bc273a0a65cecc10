"""The ledger: paid completions and failures, what processes have claimed, and the budget that they share."""
