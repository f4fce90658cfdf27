"""The component of the step assemble."""
