"""Side-by-side measurements against peers; nothing imports them."""
