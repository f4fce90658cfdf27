"""The component of the step extract."""
