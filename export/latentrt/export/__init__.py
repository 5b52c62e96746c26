"""A checkpoint becomes a bundle: graphs traced from configs, weights copied tensor by tensor."""
