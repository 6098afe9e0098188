"""Runs that are over, or under way, as one can look at them: of the embedded engine's file and of an Inngest server.

Nothing that runs an agent imports this package.
"""
