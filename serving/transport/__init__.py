"""What lies between the socket and the endpoints: middleware, request limits, graceful shutdown."""
