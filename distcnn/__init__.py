"""distcnn: one config trains the same CNN on a laptop, on a cluster and under a sweep."""

__version__ = "0.1.0"
