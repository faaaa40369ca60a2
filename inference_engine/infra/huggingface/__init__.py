"""What every runtime on a Hugging Face model folder shares: reading the folder, prompts, images, tokens back to text."""
