"""The scripts that make the built-in models; nothing in the server imports them."""
