"""Durable runs of the OpenAI Agents SDK on Inngest."""
