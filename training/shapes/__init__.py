"""Makes `shapes` and `shapes-detector`, the built-in image models, from drawn images."""
