"""What the server is compared with: the same work done with the bare library, each in a process of its own."""
