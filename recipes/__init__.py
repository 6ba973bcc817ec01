"""One module per task: its data, training, fine-tuning and evaluation."""
