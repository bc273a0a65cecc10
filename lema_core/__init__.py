"""The method of LeMa (Learning from Mistakes, arXiv 2310.20689) as a library: pure functions, no orchestrator."""
