"""The leakage audit: which people and images of a benchmark are in the training data, under whatever name."""
