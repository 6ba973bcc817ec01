"""One module a task: its data, training, fine-tuning and evaluation."""
