"""Hierarchies in an LTREE column: `source` (the three views), their texts in `sql/`."""
