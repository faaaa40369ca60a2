"""Makes `iris`, the built-in tabular model."""
