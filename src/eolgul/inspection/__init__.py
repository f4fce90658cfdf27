"""Look into an artifact: counts, samples and contact sheets."""
