"""What turns the world into tensors: text and lines of text."""
