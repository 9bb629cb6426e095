"""Captioner folders for others: their files, their model cards, and the Hugging Face hub."""
