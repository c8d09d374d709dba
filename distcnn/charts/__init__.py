"""Charts as SVG, which a page gives its colours and letters."""
