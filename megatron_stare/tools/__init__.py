"""Tools that a model may call: `tool.py` says what one is, `table.py` makes them."""
