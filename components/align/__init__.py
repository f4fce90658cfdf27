"""The component of the step align."""
