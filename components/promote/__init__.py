"""The component of the step promote."""
