"""Pages that show what a run or a sweep has left behind, each made from its directory alone."""
