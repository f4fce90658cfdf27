"""The code between the socket and the endpoints: middleware, limits on request heads, graceful shutdown."""
