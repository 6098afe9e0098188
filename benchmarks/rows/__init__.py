"""The rows of this package and of the plain `Runner`."""
