"""Durable runs beside the plain `Runner` and the other durable runners: `python -m benchmarks --help`."""
