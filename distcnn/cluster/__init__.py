"""What is sent to clusters: the typed spec, and all that is rendered from it. No ray, no torch."""
