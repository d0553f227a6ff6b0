"""A room with one system: flip a coin that is known to be biased."""
