"""Ray: the same training on many workers and nodes. The only room that imports ray."""
