"""Photos and their captions: reading, checking, preprocessing."""
