"""Engines that generate samples, and the sampler that turns prompts into groups."""
