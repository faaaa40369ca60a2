"""Makes `guide`, the small built-in chat model, from the texts in `corpus/`."""
