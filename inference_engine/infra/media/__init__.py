"""Reading videos: what a file is, decoding it in a process of its own, and the server's side of that process."""
