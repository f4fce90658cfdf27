"""The HTTP endpoints and the shapes of their requests and answers."""
