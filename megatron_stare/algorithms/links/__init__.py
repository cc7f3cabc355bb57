"""Links: one file a method, or a family of them that shares its formulas."""
