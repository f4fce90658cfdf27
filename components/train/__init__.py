"""The component of the step train."""
