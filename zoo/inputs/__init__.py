"""What turns the world into tensors: text, lines of text, and recordings of event cameras."""
