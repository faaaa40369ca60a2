"""What generating text needs below the port, whatever the runtime: grammars that bind it, and reading it."""
