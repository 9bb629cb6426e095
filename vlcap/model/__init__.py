"""The model: encoder, decoder and search, tokenizer, and the folder that holds them."""
