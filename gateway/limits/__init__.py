"""How much a caller may ask for and spend, counted by one gateway alone or by all of them."""
