"""The version of this package, which saved models and the command name."""

__version__ = "0.1.0"
