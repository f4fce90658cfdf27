"""The Evaluation artifact: its figures, how to read them and how to compare two of them."""
