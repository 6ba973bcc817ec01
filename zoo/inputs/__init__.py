"""Turns inputs into tensors: text, lines of text, and recordings of event cameras."""
