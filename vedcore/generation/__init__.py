"""Writing text token by token: options, logits processors, stopping, search and streaming over a step callable."""
