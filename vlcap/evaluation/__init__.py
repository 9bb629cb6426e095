"""How good captions are: metrics, baselines, and the comparison of token budgets."""
