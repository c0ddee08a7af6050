"""The executor service: runs code that nobody has reviewed in pooled sandboxes, over HTTP."""

__version__ = "0.1.0"
