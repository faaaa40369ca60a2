"""A model of under a million parameters that calls tools and thinks before it acts: the fixture of the agent tests."""
