"""What every runtime on a Hugging Face model folder shares: reading the folder, prompts, images, text from tokens."""
