"""What projects load in templates of their own admin."""
