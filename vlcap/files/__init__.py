"""Writing files so that nothing of the user is lost."""
