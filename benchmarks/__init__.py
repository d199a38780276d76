"""Speed claims and what proves them; see README.md."""
