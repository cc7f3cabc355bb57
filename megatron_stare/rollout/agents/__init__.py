"""Agents that talk to a policy as to any model of OpenAI's API, and what it learns from that."""
