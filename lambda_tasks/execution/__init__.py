"""The way in: from a delivery, through the claim, to a finished record."""
