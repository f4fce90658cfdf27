"""The HTML report of an Evaluation."""
