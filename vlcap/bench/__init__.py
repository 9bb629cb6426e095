"""What things cost: paired timing."""
